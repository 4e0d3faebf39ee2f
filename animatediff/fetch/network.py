"""Downloads over https, from public hosts that the rules allow, up to a size.

They run on the thread of a transfer, which ends when nobody waits for it.

A job's URL may point to services that only this machine can reach. So the name of the
host is resolved once, all its addresses are checked, and the connection goes to a
checked address; a second look-up could return another one. Every redirect is checked
in the same way before it is followed.
"""

import re
import socket
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.exceptions import SSLError
from requests.utils import get_environ_proxies, select_proxy
from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPSConnectionPool
from urllib3.exceptions import DecodeError, HTTPError

from ..deadline import Deadline
from ..errors import AssetError
from ..progress import Report, ignore
from .addresses import is_public
from .byte_count import ByteCount
from .rules import (
    NOT_HERE,
    DownloadRules,
    http_failure,
    is_about_room,
    reason_of,
    shown_url,
    too_large,
    unavailable,
)
from .transfers import Transfer, current, shared

RETRY_DELAYS = (0.5, 1.0)
MAX_REDIRECTS = 5
TIMEOUTS = (5, 30)  # seconds to connect, and between two pieces of an answer
CONNECT_SECONDS = 15.0
"""Seconds to connect to one of a name's addresses, however many there are."""
CHUNK_BYTES = 1 << 18
_REFUSAL_HINT = "; the host may want a token (ANIMATEDIFF_DOWNLOAD_TOKENS)"
_REDIRECTS = (301, 302, 303, 307, 308)
_HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")
T = TypeVar("T")


def fetch_bytes(
    url: str,
    rules: DownloadRules,
    report: Report = ignore,
    deadline: Deadline | None = None,
) -> bytes:
    """Return what is at ``url``; nothing is kept on disk.

    Raises AssetError, and what ``report`` and ``deadline`` raise.
    """
    url = permitted(url, rules)

    def work(transfer: Transfer[bytes]) -> bytes:
        def attempt() -> bytes:
            with answer(url, rules) as response:
                return b"".join(body(response, rules, transfer))

        return retried(attempt, transfer)

    def start() -> Transfer[bytes]:
        return Transfer(shown_url(url), rules, work)

    return shared(("bytes", url, rules), start, report, deadline or Deadline())


def retried(attempt: Callable[[], T], transfer: Transfer[Any]) -> T:
    """Return what ``attempt`` returns; repeat it after errors that may pass."""
    for delay in RETRY_DELAYS:
        transfer.check()
        transfer.meter.begin()
        try:
            return attempt()
        except AssetError as error:
            if not error.retryable:
                raise
        transfer.pause(delay)
    transfer.meter.begin()
    return attempt()


@contextmanager
def answer(
    url: str, rules: DownloadRules, etag: str | None = None
) -> Generator[requests.Response]:
    """Yield the answer to a GET request: 200, or 304 if ``etag`` is still right.

    Raises AssetError for anything else, and for what goes wrong while the body is read.
    """
    url = permitted(url, rules)
    if rules.offline:
        raise unavailable(shown_url(url), NOT_HERE)
    for _ in range(MAX_REDIRECTS + 1):
        with _failures_named(shown_url(url)), ExitStack() as stack:
            response = stack.enter_context(_get(url, rules, etag))
            if _is_answer(response, etag):
                yield response
                return
            if response.status_code not in _REDIRECTS:
                status = response.status_code
                hint = _REFUSAL_HINT if status in (401, 403) else ""
                raise http_failure(shown_url(url), status, hint)
            url = permitted(response.headers.get("Location", ""), rules, base=url)
    raise unavailable(
        shown_url(url), f"was not reached after {MAX_REDIRECTS} redirects"
    )


def body(
    response: requests.Response, rules: DownloadRules, transfer: Transfer[Any]
) -> Iterator[bytes]:
    """Yield the body in pieces, as they come.

    Raises AssetError if it exceeds the size allowed. A body that ends before its
    Content-Length makes urllib3 raise.
    """
    if announced_bytes(response) > rules.max_bytes:
        raise too_large(shown_url(response.url), rules)
    count = ByteCount(transfer.report)
    count.start(announced_bytes(response))
    while chunk := response.raw.read1(CHUNK_BYTES, decode_content=True):
        transfer.check()
        transfer.meter.add(len(chunk))
        count.add(len(chunk))
        if count.done > rules.max_bytes:
            raise too_large(shown_url(response.url), rules)
        yield chunk


def announced_bytes(response: requests.Response) -> int:
    """Return the Content-Length, or 0."""
    return response.raw.length_remaining or 0


def permitted(url: str, rules: DownloadRules, base: str = "") -> str:
    """Return ``url`` as seen from ``base``.

    Raises AssetError if it is malformed, is not https, or names a host that the rules
    do not allow.
    """
    whole = _well_formed(url, base)
    parts = urlsplit(whole)
    if parts.scheme != "https":
        raise unavailable(shown_url(whole), "is not fetched: only https is allowed")
    if not rules.allows(parts.hostname or ""):
        raise unavailable(
            shown_url(whole), "is not fetched: downloads from this host are not allowed"
        )
    return whole


def _well_formed(url: str, base: str) -> str:
    try:
        whole = urljoin(base, url)
        parts = urlsplit(whole)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise _malformed() from None
    if not _HOST.fullmatch(host) or "@" in parts.netloc or _has_odd_characters(url):
        raise _malformed()
    return whole


def _has_odd_characters(url: str) -> bool:
    return not url.isprintable() or re.search(r"[\s\\]", url) is not None


def _malformed() -> AssetError:
    return AssetError(
        "a URL is malformed: https://host/path is expected, without spaces, user or"
        " password"
    )


def _is_answer(response: requests.Response, etag: str | None) -> bool:
    is_unchanged = response.status_code == 304 and etag is not None
    return response.status_code == 200 or is_unchanged


@contextmanager
def _get(
    url: str, rules: DownloadRules, etag: str | None
) -> Generator[requests.Response]:
    """Yield the answer of the first of the host's addresses that can be reached."""
    _refuse_proxy(url)
    headers = _headers(url, rules, etag)
    failure: Exception = requests.ConnectionError()
    for address, timeouts in _in_time(_addresses(url, rules)):
        with requests.Session() as session:
            session.mount("https://", PinnedAdapter(address))
            try:
                response = session.get(
                    url,
                    headers=headers,
                    timeout=timeouts,
                    stream=True,
                    allow_redirects=False,
                )
            except requests.ConnectionError as error:
                failure = error
                continue
            with response:
                yield response
            return
    raise failure


def _headers(url: str, rules: DownloadRules, etag: str | None) -> dict[str, str]:
    """Return the headers for the host of ``url``; no other host gets its token."""
    headers = {"Accept-Encoding": "identity", "Host": urlsplit(url).netloc.lower()}
    if etag:
        headers["If-None-Match"] = etag
    if token := rules.token_of(url):
        headers["Authorization"] = f"Bearer {token}"
    return headers


def _in_time(addresses: list[str]) -> Iterator[tuple[str, tuple[float, float]]]:
    """Yield addresses with their timeouts, until the time to connect is over."""
    connect, read = TIMEOUTS
    end = time.monotonic() + CONNECT_SECONDS
    for address in addresses:
        if transfer := current():
            transfer.check()
        rest = end - time.monotonic()
        if rest <= 0:
            return
        yield address, (min(connect, rest), read)


def _refuse_proxy(url: str) -> None:
    """Raise AssetError if a proxy would be used: it would resolve the name again."""
    if select_proxy(url, get_environ_proxies(url)):
        raise unavailable(
            shown_url(url),
            "could not be fetched: a proxy is set, and URLs of jobs are fetched only"
            " without one",
        )


class PinnedAdapter(HTTPAdapter):
    """Connects to one address, whatever the host's name resolves to by now.

    The host's name still is what the TLS handshake asks for and what the certificate
    must be for.
    """

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address = address
        self.poolmanager.pool_classes_by_scheme = {"https": _WatchedPool}

    def build_connection_pool_key_attributes(
        self, *arguments: Any, **options: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return requests' own attributes with the address in the place of the name."""
        host, pool = super().build_connection_pool_key_attributes(*arguments, **options)
        name = host["host"]
        pinned = {"server_hostname": name, "assert_hostname": name}
        return {**host, "host": self._address}, {**pool, **pinned}


class _WatchedConnection(HTTPSConnection):
    """A connection that the transfer of this thread can shut, from its start on."""

    def _new_conn(self) -> socket.socket:
        connection = super()._new_conn()
        if transfer := current():
            transfer.watch(connection)
        return connection


class _WatchedPool(HTTPSConnectionPool):
    ConnectionCls = _WatchedConnection  # pyright: ignore[reportAssignmentType]


def _addresses(url: str, rules: DownloadRules) -> list[str]:
    """Return the host's addresses. Raises AssetError unless all of them are public."""
    parts = urlsplit(url)
    try:
        answers = socket.getaddrinfo(
            parts.hostname, parts.port or 443, type=socket.SOCK_STREAM
        )
    except socket.gaierror:
        raise unavailable(
            shown_url(url),
            "could not be fetched: the host has no address",
            retryable=True,
        ) from None
    addresses = list(dict.fromkeys(str(place[0]) for *_, place in answers))
    if not rules.private_hosts and not all(map(is_public, addresses)):
        raise unavailable(
            shown_url(url), "could not be fetched: the host is not a public one"
        )
    return addresses


@contextmanager
def _failures_named(name: str) -> Generator[None]:
    """Raise errors of the network or the disk as AssetError."""
    try:
        yield
    except (OSError, ValueError, HTTPError) as error:
        if isinstance(error, OSError) and is_about_room(error):
            raise
        is_permanent = isinstance(error, (ValueError, DecodeError))
        is_permanent |= _is_about_certificate(error)
        raise unavailable(
            name,
            f"could not be fetched: {reason_of(error)}",
            retryable=not is_permanent,
        ) from None


def _is_about_certificate(error: Exception) -> bool:
    return isinstance(error, SSLError) and "certificate" in str(error).lower()
