"""Files from URLs, kept under the hash of their content.

``files/`` holds the content. ``urls/`` holds one small file a URL: the hash and the
ETag of what it led to last time; ``pages/`` holds the same for URLs without their
query.

Whoever knows only the hash of a download gets it from no cache: the URL may have been
secret. A job gets the file of the URL that it names. If it names the file's page with
another query, as a URL that was signed anew has it, the server decides. ``downloads/``
holds the hashes of all downloads: a file that was put into ``files/`` by hand, named
by its hash, is for every job that names the hash.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import requests

from ..atomic import written_whole
from ..deadline import Deadline
from ..progress import Report, ignore
from .content import HEAD_BYTES, is_web_page, suffix_of
from .hashes import content_sha256
from .leftovers import incoming_folder, sweep
from .network import announced_bytes, answer, body, permitted, retried
from .room import check_room, full_disk_named, make_room, touch
from .rules import NOT_HERE, DownloadRules, shown_url, unavailable
from .transfers import Transfer, shared

ROOM_STEP = 1 << 20
"""Bytes of a download for which room is made at a time."""
_SHA256 = re.compile("[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class _Entry:
    """The file that a URL led to last time. ``sha256`` is empty if it is unknown."""

    sha256: str = ""
    etag: str | None = None


@dataclass(frozen=True)
class _Request:
    """A job's request for a file; see ``fetch_url``."""

    url: str
    rules: DownloadRules
    sha256: str | None
    suffix: str | None

    @property
    def files(self) -> Path:
        return self.rules.cache_dir / "files"

    def known(self) -> tuple[Path | None, _Entry]:
        """Return the file that this very URL led to, if it is still here."""
        entry = _read_entry(self._index("urls", self.url))
        if self.sha256 not in (None, entry.sha256):
            return None, _Entry()
        return self._file(entry), entry

    def put_by_hand(self) -> Path | None:
        """Return the file with the hash of the request, unless it is a download.

        Its content is checked once for each URL.
        """
        if self.sha256 is None or self._mark(self.sha256).exists():
            return None
        entry = _Entry(self.sha256)
        path = self._file(entry)
        if path is None or content_sha256(path) != self.sha256:
            return None
        _write_entry(self._index("urls", self.url), entry)
        return path

    def mark_as_download(self, digest: str) -> None:
        """Note, before the file is in its place, that its content came from a URL."""
        mark = self._mark(digest)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()

    def _mark(self, digest: str) -> Path:
        return self.rules.cache_dir / "downloads" / digest

    def to_confirm(self) -> tuple[Path | None, str | None]:
        """Return a file and its ETag, if the server may say that it is current."""
        path, entry = self.known()
        if path is None and self.sha256 is not None:
            entry = _read_entry(self._index("pages", _page(self.url)))
            path = self._file(entry) if entry.sha256 == self.sha256 else None
        return (path, entry.etag) if path and entry.etag else (None, None)

    def remember(self, path: Path, response: requests.Response) -> None:
        """Remember what the URL led to."""
        entry = _Entry(path.name[:64], response.headers.get("ETag"))
        _write_entry(self._index("urls", self.url), entry)
        if _page(self.url) != self.url:
            _write_entry(self._index("pages", _page(self.url)), entry)

    def name(self, digest: str, head: bytes) -> str:
        """Name a file by its content. Raises AssetError for another than expected."""
        name = shown_url(self.url)
        if self.sha256 is not None:
            _check_hash(name, digest, self.sha256)
        suffix = suffix_of(head) or self.suffix
        if suffix is None or (self.suffix != "" and is_web_page(head)):
            kind = "a web page" if is_web_page(head) else "something else"
            raise unavailable(name, f"is no weight file but {kind}")
        return f"{digest}{suffix}"

    def _file(self, entry: _Entry) -> Path | None:
        suffixes = dict.fromkeys((self.suffix or "", ".safetensors", ".ckpt"))
        paths = (self.files / f"{entry.sha256}{suffix}" for suffix in suffixes)
        kept = (path for path in paths if entry.sha256 and path.is_file())
        return next(kept, None)

    def _index(self, folder: str, url: str) -> Path:
        digest = hashlib.sha256(url.encode()).hexdigest()
        return self.rules.cache_dir / folder / f"{digest}.json"


def fetch_url(
    url: str,
    rules: DownloadRules,
    *,
    sha256: str | None = None,
    suffix: str | None = "",
    report: Report = ignore,
    deadline: Deadline | None = None,
) -> Path:
    """Return the file at ``url``, fetched if need be.

    If ``url`` led to a file with ``sha256``, no server is asked. Without ``sha256`` the
    server is asked whether the cached file is still current.

    The file's suffix is that of its kind, or ``suffix`` if its content shows none. With
    ``suffix`` None the content must show that it is a weight file.

    Raises AssetError if the file cannot be fetched or is another than expected;
    DiskFull; and what ``report`` and ``deadline`` raise.
    """
    url = permitted(url, rules)
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise unavailable(
            shown_url(url), "cannot be checked: a sha256 has 64 hexadecimal digits"
        )
    request = _Request(url, rules, sha256 and sha256.lower(), suffix)
    path = request.known()[0] or request.put_by_hand()
    if path and (sha256 or rules.offline):
        return touch(path)
    if rules.offline:
        raise unavailable(shown_url(url), NOT_HERE)

    def start() -> Transfer[Path]:
        return Transfer(shown_url(url), rules, partial(_fetch, request))

    return shared(request, start, report, deadline or Deadline())


def _fetch(request: _Request, transfer: Transfer[Path]) -> Path:
    def attempt() -> Path:
        with full_disk_named(request.files):
            return fetched()

    def fetched() -> Path:
        cached, etag = request.to_confirm()
        with answer(request.url, request.rules, etag) as response:
            if cached and response.status_code == 304:
                return touch(cached)
            path = _keep(request, response, transfer)
            request.remember(path, response)
            return path

    return retried(attempt, transfer)


def _page(url: str) -> str:
    return url.partition("?")[0]


def _check_hash(name: str, digest: str, expected: str) -> None:
    if digest != expected:
        raise unavailable(
            name,
            f"is another file than expected: its sha256 is {digest}, not {expected}",
            expected=expected,
            got=digest,
        )


def _read_entry(index: Path) -> _Entry:
    try:
        values = json.loads(index.read_text())
        return _Entry(values["sha256"], values["etag"])
    except (OSError, ValueError, KeyError, TypeError):
        return _Entry()


def _write_entry(index: Path, entry: _Entry) -> None:
    with written_whole(index) as part:
        part.write_text(json.dumps(asdict(entry)))


def _keep(
    request: _Request, response: requests.Response, transfer: Transfer[Path]
) -> Path:
    """Write the body of ``response`` into the cache, and return the file."""
    files, rules, size = request.files, request.rules, announced_bytes(response)
    chunks = body(response, rules, transfer)
    check_room(size, rules, files)
    files.mkdir(parents=True, exist_ok=True)
    with incoming_folder(files) as scratch:
        part = scratch / "part"
        digest = _write(part, _with_room(chunks, size, rules, files))
        with part.open("rb") as file:
            name = request.name(digest, file.read(HEAD_BYTES))
        request.mark_as_download(digest)
        return part.replace(files / name)


def _write(part: Path, chunks: Iterator[bytes]) -> str:
    """Write ``chunks``, and return their sha256."""
    digest = hashlib.sha256()
    with part.open("wb") as file:
        for chunk in chunks:
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def _with_room(
    chunks: Iterator[bytes], size: int, rules: DownloadRules, folder: Path
) -> Iterator[bytes]:
    """Yield the chunks, with room for each. Raises DiskFull.

    Old downloads make way for bytes that come, not for the ``size`` that a host
    announces; 0 is an unknown one.
    """
    arrived = room = 0
    for chunk in chunks:
        arrived += len(chunk)
        while room < arrived:
            step = min(ROOM_STEP, size - room) if size > room else ROOM_STEP
            make_room(step, rules, folder, arrived=room)
            room += step
        yield chunk


def tidy(cache_dir: Path) -> None:
    """Remove what killed downloads left, and what is known of files that are gone."""
    sweep(cache_dir)
    with suppress(OSError):
        here = {path.name[:64] for path in (cache_dir / "files").iterdir()}
        for index in [*cache_dir.glob("urls/*.json"), *cache_dir.glob("pages/*.json")]:
            if _read_entry(index).sha256 not in here:
                index.unlink(missing_ok=True)
        for mark in cache_dir.glob("downloads/*"):
            if mark.name not in here:
                mark.unlink(missing_ok=True)
