"""Files from elsewhere, fetched safely: over https, from public hosts that the rules
allow, up to the size they allow.

Every failure is an AssetError. It shows a URL without its query, where signed URLs
carry their secret, and has no cause, because the causes' texts show all of it.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import gaierror
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
from requests.exceptions import SSLError
from requests.utils import get_environ_proxies, select_proxy

from ..atomic import hidden_folder
from ..errors import AssetError, shorten

RETRY_DELAYS = (0.5, 1.0)
MAX_REDIRECTS = 5
TIMEOUTS = (10, 30)  # seconds to connect, and between two pieces of an answer
_HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")
_NOT_HERE = "is not in the cache, and may not be downloaded"
T = TypeVar("T")


@dataclass(frozen=True)
class DownloadRules:
    """What may be fetched, and where it is kept.

    ``hosts``: None allows every public host, else only these; ".example.org" means all
    below it. ``offline``: only what is here already.
    """

    cache_dir: Path
    max_bytes: int
    hosts: tuple[str, ...] | None = None
    offline: bool = False


def fetch_url(
    url: str, rules: DownloadRules, *, sha256: str | None = None, suffix: str = ""
) -> Path:
    """The file at ``url``, in the cache under the hash of its content and ``suffix``.

    If a file with the wanted ``sha256`` is there, nobody is asked. Without ``sha256``
    the server is asked whether what came last time is still right.
    """
    url = _permitted(url, rules)
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise _error(
            _shown(url), "cannot be checked: a sha256 has 64 hexadecimal digits"
        )
    files = rules.cache_dir / "files"
    index = (
        rules.cache_dir / "urls" / f"{hashlib.sha256(url.encode()).hexdigest()}.json"
    )
    known, etag = (sha256.lower(), None) if sha256 else _remembered(index)
    cached = files / f"{known}{suffix}"
    is_here = cached.is_file()
    if is_here and (sha256 or rules.offline):
        return cached

    def name(got: str) -> str:
        if sha256 and got != known:
            text = f"is another file than expected: its sha256 is {got}, not {known}"
            raise _error(_shown(url), text, expected=known, got=got)
        return f"{got}{suffix}"

    def attempt() -> Path:
        with _answer(url, rules, etag if is_here else None) as response:
            if response.status_code == 304:
                return cached
            kept = _keep(_body(response, rules), files, name)
            entry = {"sha256": kept.name[:64], "etag": response.headers.get("ETag")}
            _keep([json.dumps(entry).encode()], index.parent, lambda _: index.name)
            return kept

    return _retried(attempt)


def fetch_bytes(url: str, rules: DownloadRules) -> bytes:
    """What is at ``url``, in memory and kept nowhere."""

    def attempt() -> bytes:
        with _answer(url, rules) as response:
            return b"".join(_body(response, rules))

    return _retried(attempt)


def fetch_hub(repo: str, file: str, revision: str | None, rules: DownloadRules) -> Path:
    """``file`` of a model repository on the Hugging Face hub, in its library's own
    cache. The library does the retries.

    ``hosts`` is held against the hub's own name, not against those of the stores that
    it hands out files from.
    """
    from httpx2 import HTTPError
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import XetDownloadError

    revision = revision or constants.DEFAULT_REVISION
    name = f"{shorten(file)} of {shorten(repo)} at revision {shorten(revision)}"
    if ".." in revision or revision.startswith("/"):  # the library makes a path of it
        raise _error(name, "cannot be found: no revision has such a name")
    try:
        if rules.offline or not _allowed(
            urlsplit(constants.ENDPOINT).hostname or "", rules
        ):
            found = try_to_load_from_cache(
                repo, file, revision=revision
            )  # hf_hub_download would use the network
            if not isinstance(found, str):
                raise _error(name, _NOT_HERE)
            return Path(found)
        size = hf_hub_download(repo, file, revision=revision, dry_run=True).file_size
        if size is None or size > rules.max_bytes:
            raise _too_large(name, rules)
        return Path(hf_hub_download(repo, file, revision=revision))
    except (HTTPError, XetDownloadError, OSError, ValueError, RuntimeError) as error:
        raise _hub_failure(error, name) from None


def _hub_failure(error: BaseException, name: str) -> AssetError:
    from huggingface_hub import errors

    if isinstance(
        error, errors.LocalEntryNotFoundError
    ):  # not here; its cause says why the hub did not help
        error = error.__cause__ or errors.OfflineModeIsEnabled()
    token = "set HF_TOKEN to a token that may read it"
    texts = {
        errors.OfflineModeIsEnabled: _NOT_HERE,
        errors.GatedRepoError: f"is behind a gate: {token}",
        errors.RepositoryNotFoundError: f"is in no repository of the hub, or in a"
        f" private one: then {token}",
        errors.RevisionNotFoundError: "cannot be found: the repository has no such"
        " revision",
        errors.RemoteEntryNotFoundError: "cannot be found: the repository has no such"
        " file",
    }
    for kind, text in texts.items():
        if isinstance(error, kind):
            return _error(name, text)
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        return _http_error(name, status, f"; {token}" if status in (401, 403) else "")
    return _error(
        name,
        f"could not be fetched: {_reason(error)}",
        retryable=not isinstance(error, ValueError),
    )


@contextmanager
def _answer(
    url: str, rules: DownloadRules, etag: str | None = None
) -> Iterator[requests.Response]:
    """The answer to a GET, 200 or (to ``etag``) 304. Each redirect is held against the
    rules before it is followed.
    """
    url = _permitted(url, rules)
    if rules.offline:
        raise _error(_shown(url), _NOT_HERE)
    headers = {"Accept-Encoding": "identity"} | (
        {"If-None-Match": etag} if etag else {}
    )
    for _ in range(MAX_REDIRECTS + 1):
        with _failures_named(_shown(url)), ExitStack() as stack:
            response = _get(url, headers, stack)
            if response.status_code == 200 or (response.status_code == 304 and etag):
                yield response
                return
            if response.status_code not in (301, 302, 303, 307, 308):
                raise _http_error(_shown(url), response.status_code)
            url = _permitted(response.headers.get("Location", ""), rules, base=url)
    raise _error(_shown(url), f"was not reached in {MAX_REDIRECTS} redirects")


def _get(url: str, headers: dict[str, str], stack: ExitStack) -> requests.Response:
    """One hop of the SDK's ``safe_get``, which itself follows redirects unseen, to http
    too. Closed by ``stack``.
    """
    from runpod.serverless.utils.rp_ssrf import PinnedIPAdapter, resolve_and_validate

    if select_proxy(
        url, get_environ_proxies(url)
    ):  # it would look up the host again, and might find another address
        raise _error(
            _shown(url),
            "could not be fetched: a proxy is set, and URLs are fetched without one"
            " only",
        )
    parts, failure = urlsplit(url), requests.ConnectionError()
    for address in resolve_and_validate(parts.hostname or "", parts.port or 443):
        session = stack.enter_context(requests.Session())
        session.mount("https://", PinnedIPAdapter(address))
        try:
            answer = session.get(
                url,
                headers=headers,
                timeout=TIMEOUTS,
                stream=True,
                allow_redirects=False,
            )
            return stack.enter_context(answer)
        except requests.ConnectionError as error:
            failure = error
    raise failure


@contextmanager
def _failures_named(name: str) -> Iterator[None]:
    """What the SDK (a ValueError), the network or the disk raises, as an AssetError."""
    from runpod.serverless.utils.rp_ssrf import SSRFError

    try:
        yield
    except SSRFError as error:
        unknown = isinstance(error.__cause__, gaierror)
        text = "the host has no address" if unknown else "the host is not a public one"
        raise _error(name, f"could not be fetched: {text}", retryable=unknown) from None
    except (OSError, ValueError) as error:
        wrong_certificate = (
            isinstance(error, SSLError) and "certificate" in str(error).lower()
        )
        retryable = not isinstance(error, ValueError) and not wrong_certificate
        raise _error(
            name, f"could not be fetched: {_reason(error)}", retryable=retryable
        ) from None


def _body(response: requests.Response, rules: DownloadRules) -> Iterator[bytes]:
    """The body in pieces, up to the cap. One that ends before its Content-Length makes
    urllib3 raise.
    """
    from runpod.serverless.utils.rp_ssrf import SSRFError, iter_content_capped

    if (response.raw.length_remaining or 0) > rules.max_bytes:
        raise _too_large(_shown(response.url), rules)
    try:
        yield from iter_content_capped(response, 1 << 20, rules.max_bytes)
    except SSRFError:
        raise _too_large(_shown(response.url), rules) from None


def _permitted(url: str, rules: DownloadRules, base: str = "") -> str:
    """``url`` as seen from ``base``. Raises AssetError if it is malformed, not https,
    or of a host not allowed.
    """
    try:
        whole = urljoin(base, url)
        parts = urlsplit(whole)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if (
        not _HOST.fullmatch(host)
        or "@" in parts.netloc
        or not url.isprintable()
        or re.search(r"[\s\\]", url)
    ):
        raise AssetError(
            "a URL is malformed: https://host/path is expected, without spaces, user"
            " or password"
        )
    if parts.scheme != "https":
        raise _error(_shown(whole), "is not fetched: only https is")
    if not _allowed(host, rules):
        raise _error(
            _shown(whole), "is not fetched: downloads from this host are not allowed"
        )
    return whole


def _allowed(host: str, rules: DownloadRules) -> bool:
    names = [host] if rules.hosts is None else [name.lower() for name in rules.hosts]
    return any(
        host == name or (name.startswith(".") and host.endswith(name)) for name in names
    )


def _shown(url: str) -> str:
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return shorten(f"{parts.scheme}://{host}{parts.path}", 200)


def _error(
    name: str, text: str, *, retryable: bool = False, **details: Any
) -> AssetError:
    return AssetError(f"{name} {text}", retryable=retryable, asset=name, **details)


def _http_error(name: str, status: int, hint: str = "") -> AssetError:
    passes = status >= 500 or status in (408, 429)
    return _error(
        name,
        f"could not be fetched: HTTP {status}{hint}",
        retryable=passes,
        status=status,
    )


def _too_large(name: str, rules: DownloadRules) -> AssetError:
    return _error(
        name,
        f"is larger than the {rules.max_bytes} bytes allowed",
        limit=rules.max_bytes,
    )


def _reason(error: BaseException) -> str:
    """What an error is, without its text: that may hold queries and local paths."""
    return getattr(error, "strerror", None) or type(error).__name__


def _remembered(index: Path) -> tuple[str, str | None]:
    """Hash and ETag of what a URL led to last time. The hash is empty if nobody knows."""
    try:
        entry = json.loads(index.read_text())
        return entry["sha256"], entry["etag"]
    except (OSError, ValueError, KeyError, TypeError):
        return "", None


def _keep(chunks: Iterable[bytes], folder: Path, name: Callable[[str], str]) -> Path:
    """Writes ``chunks`` below ``folder``, whole or not at all. ``name`` gives, or
    refuses, a name for their sha256.
    """
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with hidden_folder(folder) as scratch:
        part = scratch / "part"
        with part.open("wb") as file:
            for chunk in chunks:
                digest.update(chunk)
                file.write(chunk)
        return part.replace(folder / name(digest.hexdigest()))


def _retried(attempt: Callable[[], T]) -> T:
    for delay in RETRY_DELAYS:
        try:
            return attempt()
        except AssetError as error:
            if not error.retryable:
                raise
        time.sleep(delay)
    return attempt()
