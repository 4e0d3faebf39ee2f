"""Files from URLs, kept under the hash of their content.

``files/`` holds the content, ``urls/`` one small file a URL: the hash and the ETag of
what it led to last time.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import requests

from ..atomic import hidden_folder, written_whole
from ..progress import Report, ignore
from .network import answer, body, permitted, retried
from .rules import DownloadRules, shown_url, unavailable

_SHA256 = re.compile("[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class _Entry:
    """What a URL led to last time. ``sha256`` is empty if nobody knows."""

    sha256: str = ""
    etag: str | None = None


def fetch_url(
    url: str,
    rules: DownloadRules,
    *,
    sha256: str | None = None,
    suffix: str = "",
    report: Report = ignore,
) -> Path:
    """Return the file at ``url``, fetched if need be.

    If a file with ``sha256`` is in the cache, no server is asked. Without ``sha256``
    the server is asked whether the cached file is still current. Raises AssetError if
    the file cannot be fetched or has another hash.
    """
    url = permitted(url, rules)
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise unavailable(
            shown_url(url), "cannot be checked: a sha256 has 64 hexadecimal digits"
        )
    files = rules.cache_dir / "files"
    index = _index_of(url, rules)
    entry = _Entry(sha256.lower()) if sha256 else _read_entry(index)
    cached = files / f"{entry.sha256}{suffix}"
    is_here = cached.is_file()
    if is_here and (sha256 or rules.offline):
        return cached

    def name(digest: str) -> str:
        if sha256:
            _check_hash(shown_url(url), digest, sha256.lower())
        return f"{digest}{suffix}"

    def attempt() -> Path:
        with answer(url, rules, entry.etag if is_here else None) as response:
            if response.status_code == 304:
                return cached
            path = _keep(body(response, rules, report), files, name)
            _write_entry(index, path, response)
            return path

    return retried(attempt)


def _index_of(url: str, rules: DownloadRules) -> Path:
    digest = hashlib.sha256(url.encode()).hexdigest()
    return rules.cache_dir / "urls" / f"{digest}.json"


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


def _write_entry(index: Path, path: Path, response: requests.Response) -> None:
    entry = _Entry(path.name[:64], response.headers.get("ETag"))
    with written_whole(index) as part:
        part.write_text(json.dumps(asdict(entry)))


def _keep(chunks: Iterable[bytes], folder: Path, name: Callable[[str], str]) -> Path:
    """Write ``chunks`` into ``folder``; ``name`` turns their hash into a name."""
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with hidden_folder(folder) as scratch:
        part = scratch / "part"
        with part.open("wb") as file:
            for chunk in chunks:
                digest.update(chunk)
                file.write(chunk)
        return part.replace(folder / name(digest.hexdigest()))
