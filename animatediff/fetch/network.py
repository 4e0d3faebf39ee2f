"""Downloads over https, from public hosts that the rules allow, up to a size.

A job's URL may point to services that only this machine can reach. So the name of the
host is resolved once, all its addresses are checked, and the connection goes to a
checked address; a second look-up could return another one. Every redirect is checked
in the same way before it is followed.
"""

import ipaddress
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

from ..errors import AssetError
from ..progress import Report, ignore
from .byte_count import ByteCount
from .rules import (
    NOT_HERE,
    DownloadRules,
    http_failure,
    reason_of,
    shown_url,
    too_large,
    unavailable,
)

RETRY_DELAYS = (0.5, 1.0)
MAX_REDIRECTS = 5
TIMEOUTS = (10, 30)  # seconds to connect, and between two pieces of an answer
CHUNK_BYTES = 1 << 20
_REDIRECTS = (301, 302, 303, 307, 308)
# RFC 6598. Only Python 3.12.4 and later call these addresses private.
_SHARED_ADDRESSES = ipaddress.ip_network("100.64.0.0/10")
_HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")
T = TypeVar("T")


def fetch_bytes(url: str, rules: DownloadRules, report: Report = ignore) -> bytes:
    """Return what is at ``url``; nothing is kept on disk. Raises AssetError."""

    def attempt() -> bytes:
        with answer(url, rules) as response:
            return b"".join(body(response, rules, report))

    return retried(attempt)


def retried(attempt: Callable[[], T]) -> T:
    """Return what ``attempt`` returns; repeat it after errors that may pass."""
    for delay in RETRY_DELAYS:
        try:
            return attempt()
        except AssetError as error:
            if not error.retryable:
                raise
        time.sleep(delay)
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
                raise http_failure(shown_url(url), response.status_code)
            url = permitted(response.headers.get("Location", ""), rules, base=url)
    raise unavailable(
        shown_url(url), f"was not reached after {MAX_REDIRECTS} redirects"
    )


def body(
    response: requests.Response, rules: DownloadRules, report: Report = ignore
) -> Iterator[bytes]:
    """Yield the body in pieces. Raises AssetError if it exceeds the size allowed.

    A body that ends before its Content-Length makes urllib3 raise.
    """
    announced: int = response.raw.length_remaining or 0
    if announced > rules.max_bytes:
        raise too_large(shown_url(response.url), rules)
    count = ByteCount(report)
    count.start(announced)
    for chunk in response.iter_content(CHUNK_BYTES):
        count.add(len(chunk))
        if count.done > rules.max_bytes:
            raise too_large(shown_url(response.url), rules)
        yield chunk


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
    parts = urlsplit(url)
    headers = {"Accept-Encoding": "identity", "Host": parts.netloc.lower()}
    if etag:
        headers["If-None-Match"] = etag
    failure: Exception = requests.ConnectionError()
    for address in _addresses(url, rules):
        with requests.Session() as session:
            session.mount("https://", PinnedAdapter(address))
            try:
                response = session.get(
                    url,
                    headers=headers,
                    timeout=TIMEOUTS,
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

    def build_connection_pool_key_attributes(
        self, *arguments: Any, **options: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return requests' own attributes with the address in the place of the name."""
        host, pool = super().build_connection_pool_key_attributes(*arguments, **options)
        name = host["host"]
        pinned = {"server_hostname": name, "assert_hostname": name}
        return {**host, "host": self._address}, {**pool, **pinned}


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


def is_public(address: str) -> bool:
    """Whether an IP address is one host's, reachable from the whole internet.

    An IPv4 address that is written as IPv6 is judged as IPv4.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    special = (ip.is_private, ip.is_loopback, ip.is_link_local, ip.is_reserved)
    if any(special) or ip.is_multicast or ip.is_unspecified:
        return False
    return ip.is_global and ip not in _SHARED_ADDRESSES


@contextmanager
def _failures_named(name: str) -> Generator[None]:
    """Raise errors of the network or the disk as AssetError."""
    try:
        yield
    except (OSError, ValueError) as error:
        is_permanent = isinstance(error, ValueError) or _is_about_certificate(error)
        raise unavailable(
            name,
            f"could not be fetched: {reason_of(error)}",
            retryable=not is_permanent,
        ) from None


def _is_about_certificate(error: Exception) -> bool:
    return isinstance(error, SSLError) and "certificate" in str(error).lower()
