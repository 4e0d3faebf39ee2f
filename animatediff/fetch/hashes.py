"""The sha256 of files and of model folders."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from ..families import FAMILIES
from ..threads import Threads
from .weight_file import Stamp, stamp

_MODEL_FOLDERS = sorted({name for row in FAMILIES.values() for name in row.folders})
_MODEL_SUFFIXES = (".safetensors", ".ckpt", ".bin", ".json", ".txt")


def content_sha256(path: Path) -> str:
    """Return the sha256 of a file, or of a model folder.

    A folder's hash is that of its weight and config files' names and hashes, in order.
    """
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    lines = (
        f"{content_sha256(file)}  {file.relative_to(path).as_posix()}\n"
        for file in _model_files(path)
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _model_files(folder: Path) -> Iterator[Path]:
    """Yield what a pipeline reads; no README, and no motion modules beside it."""
    for part in _MODEL_FOLDERS:
        for path in sorted((folder / part).glob("*")):
            if path.suffix in _MODEL_SUFFIXES and path.is_file():
                yield path


class ContentHashes:
    """Hashes of files, computed on a thread when first needed, and kept.

    A file that changes is hashed again.
    """

    def __init__(self) -> None:
        self._hashes: dict[tuple[Path, Stamp], Future[str]] = {}
        self._thread = Threads(1, "sha256")

    def later(self, path: Path) -> Future[str]:
        """Return the coming hash of a file or of a model folder."""
        key = (path, stamp(path))
        if key not in self._hashes:
            self._hashes[key] = self._thread.submit(partial(content_sha256, path))
        return self._hashes[key]
