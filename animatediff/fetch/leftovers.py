"""Removes the files that downloads leave when their process is killed.

A download writes into a hidden folder of its own and holds a lock in it, which the
kernel releases when the process ends in whatever way.
"""

import fcntl
import os
import shutil
import socket
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..atomic import PREFIX, hidden_folder

STALE_SECONDS = 3600.0
"""Age after which a leftover of another machine, whose locks are not seen, is stale."""
_LOCK_FILE = "lock"


@contextmanager
def incoming_folder(parent: Path) -> Generator[Path]:
    """Yield a hidden folder in ``parent``, removed afterwards, by ``sweep`` if need be.

    Its file "lock" is ours.
    """
    with hidden_folder(parent) as folder, (folder / _LOCK_FILE).open("w") as lock:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.write(socket.gethostname())
        lock.flush()
        yield folder


def sweep(cache_dir: Path) -> None:
    """Remove the leftovers of killed downloads from the folders of ``cache_dir``."""
    with suppress(OSError):
        for folder in list(cache_dir.glob(f"*/{PREFIX}*")):
            if _is_left(folder):
                shutil.rmtree(folder, ignore_errors=True)


def sweep_hub(hub_cache: Path) -> None:
    """Remove the leftovers of killed downloads of the hub's library.

    It writes ``<etag>.<random>.incomplete`` while it holds the lock of the etag.
    """
    with suppress(OSError):
        for path in list(hub_cache.glob("models--*/blobs/*.incomplete")):
            etag = path.name.partition(".")[0]
            lock = hub_cache / ".locks" / path.parent.parent.name / f"{etag}.lock"
            if not _is_locked(lock):
                path.unlink(missing_ok=True)


def _is_left(folder: Path) -> bool:
    lock = folder / _LOCK_FILE
    if _is_locked(lock):
        return False
    with suppress(OSError):
        if lock.read_text() == socket.gethostname():
            return True
    return time.time() - max(_times(folder)) > STALE_SECONDS


def _times(folder: Path) -> Iterator[float]:
    for path in (folder, *folder.iterdir()):
        yield path.stat().st_mtime


def _is_locked(path: Path) -> bool:
    """Whether a process on this machine holds the lock of ``path``."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
