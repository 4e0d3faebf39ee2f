"""Room on the disk: the least recently used downloads make way for new ones.

They are the files that URLs led to, and those of the hub that jobs had fetched. What a
job or a loaded model uses stays, even beyond the limit of the cache. Workers may share
a cache: a file in use has a shared lock, so that no other worker removes it.
"""

import fcntl
import hashlib
import os
import shutil
import time
import weakref
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from ..errors import DiskFull
from .rules import DownloadRules, is_about_room
from .weight_file import WeightFile

MARGIN = 64 << 20
"""Bytes that a large download leaves free; a small one leaves its hundredth part."""
_LOCK = Lock()
_USED: "list[weakref.ref[WeightFile]]" = []


@dataclass(frozen=True)
class _Kept:
    """A download. ``record`` is what the cache has of it: the file, or a link to it."""

    record: Path
    bytes: int
    last_use: float
    device: int

    def remove(self) -> bool:
        """Remove the file and its links, unless another process uses it."""
        target = Path(os.path.realpath(self.record))
        with _unused(target) as is_unused:
            if is_unused:
                for path in {target, *_links(self.record), self.record}:
                    with suppress(OSError):
                        path.unlink()
        return is_unused


def _links(record: Path) -> Iterator[Path]:
    """Yield what ``record`` links to: the hub's library links to its content itself."""
    if record.is_symlink():
        yield Path(record.readlink())


@contextmanager
def _unused(path: Path) -> Generator[bool]:
    """Yield whether no process uses a file; while the block runs, none begins to."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # gone, or not ours to read
        yield True
        return
    try:
        yield _is_locked_alone(descriptor)
    finally:
        os.close(descriptor)


def _is_locked_alone(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def keep_in_use(file: WeightFile) -> WeightFile:
    """Let no download remove ``file`` as long as this object lives; return it.

    Raises FileNotFoundError if it has just been removed.
    """
    _lock(file)
    with _LOCK:
        _USED[:] = [each for each in _USED if each() is not None]
        _USED.append(weakref.ref(file))
    return file


def _lock(file: WeightFile) -> None:
    """Hold a shared lock as long as ``file`` lives. The kernel ends it for the dead."""
    try:
        descriptor = os.open(file.path, os.O_RDONLY | os.O_NONBLOCK)
    except PermissionError:  # reported by whoever reads it
        return
    weakref.finalize(file, os.close, descriptor)
    with suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    if not os.path.samestat(os.fstat(descriptor), file.path.stat()):
        raise FileNotFoundError(file.path)


def touch(path: Path) -> Path:
    """Count ``path`` as used now, and return it.

    Only the time of access changes: that of modification tells a file from another.
    """
    with suppress(OSError):
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
    return path


def record_hub_file(path: Path, rules: DownloadRules) -> None:
    """Count a file in the cache of the hub's library among the downloads."""
    folder = rules.cache_dir / "hub"
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        link = folder / hashlib.sha256(os.fsencode(path)).hexdigest()
        link.symlink_to(path.absolute())


def make_room(
    needed: int, rules: DownloadRules, folder: Path, *, arrived: int = 0
) -> None:
    """Remove old downloads until ``needed`` bytes fit the cache and ``folder``'s disk.

    ``arrived`` bytes of the same file are on the disk already, and not in the cache.
    Raises DiskFull if they do not fit the disk in any way. It is fatal if hardly any
    room is left: then something else fills the disk, and small jobs have no room.
    """
    with _LOCK:
        kept = sorted(_kept(rules), key=lambda each: each.last_use)
        in_use = _paths_in_use()
        total = sum(each.bytes for each in kept)
        device = existing(folder).stat().st_dev
        for each in kept:
            is_short = _missing(needed, folder) > 0 and each.device == device
            if not is_short and not _exceeds(total + arrived + needed, rules):
                continue
            is_free = os.path.realpath(each.record) not in in_use
            if is_free and each.remove():
                total -= each.bytes
    if _missing(needed, folder) > 0:
        raise _disk_full(needed, folder)


def check_room(needed: int, rules: DownloadRules, folder: Path) -> None:
    """Raise DiskFull if ``needed`` bytes do not fit without all old downloads either.

    Nothing is removed.
    """
    with _LOCK:
        in_use, device = _paths_in_use(), existing(folder).stat().st_dev
        removable = sum(
            each.bytes
            for each in _kept(rules)
            if each.device == device and os.path.realpath(each.record) not in in_use
        )
    if _missing(needed, folder) > removable:
        raise _disk_full(needed, folder, removable)


def has_room(needed: int, folder: Path) -> bool:
    """Whether ``needed`` bytes fit the disk of ``folder`` as it is."""
    return _missing(needed, folder) <= 0


def _exceeds(total: int, rules: DownloadRules) -> bool:
    return rules.max_cache_bytes is not None and total > rules.max_cache_bytes


def _kept(rules: DownloadRules) -> Iterator[_Kept]:
    for name in ("files", "hub"):
        with suppress(OSError):
            for record in (rules.cache_dir / name).iterdir():
                yield from _kept_as(record)


def _kept_as(record: Path) -> Iterator[_Kept]:
    try:
        stat = record.stat()
    except OSError:
        with suppress(OSError):
            record.unlink()  # a link to what was removed by others
        return
    if record.is_file():
        yield _Kept(record, stat.st_size, stat.st_atime, stat.st_dev)


def _paths_in_use() -> set[str]:
    files = (each() for each in _USED)
    return {os.path.realpath(file.path) for file in files if file is not None}


def existing(folder: Path) -> Path:
    """Return ``folder``, or the nearest one above it that is there."""
    return next(each for each in (folder, *folder.absolute().parents) if each.is_dir())


def _with_margin(needed: int) -> int:
    return needed + min(MARGIN, needed // 100)


def _missing(needed: int, folder: Path) -> int:
    return _with_margin(needed) - shutil.disk_usage(existing(folder)).free


@contextmanager
def full_disk_named(folder: Path) -> Generator[None]:
    """Raise DiskFull for an error that says so of the disk of ``folder``."""
    try:
        yield
    except OSError as error:
        if not is_about_room(error):
            raise
        raise _disk_full(0, folder) from None


def _disk_full(needed: int, folder: Path, removable: int = 0) -> DiskFull:
    """Return the error. ``removable``: bytes that old downloads could free."""
    usage = shutil.disk_usage(existing(folder))
    size = f"{needed} bytes" if needed else "a download"
    return DiskFull(
        f"the worker's disk has no room for {size}: {usage.free} bytes are free",
        fatal=usage.free + removable < min(MARGIN, usage.total // 10),
        needed=needed,
        free=usage.free,
    )
