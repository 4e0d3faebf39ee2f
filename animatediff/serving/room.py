"""Room on the worker's disk: asked before the work, and recognised when it is short."""

import shutil
import tempfile
from pathlib import Path

from ..errors import DiskFull, led_by
from ..fetch.room import existing
from ..fetch.rules import is_about_room

MARGIN = 1_000_000
"""Bytes beside a clip's own: the folders of writers, and other processes."""
SMALL_JOB = 64_000_000
"""Bytes with which a worker is still of use, because most clips need less."""
_TEXT = "no space left on device"  # as ffmpeg reports it


def check_room(folder: Path, needed: int) -> None:
    """Raise DiskFull unless ``folder`` takes ``needed`` bytes and MARGIN.

    A folder that does not exist will be made in its nearest parent.
    """
    free = shutil.disk_usage(existing(folder)).free
    if free < needed + MARGIN:
        raise DiskFull(
            f"the worker's disk has {free} bytes left, and the clip needs about"
            f" {needed + MARGIN}",
            fatal=free < SMALL_JOB,
            free=free,
        )


def check_temporary_room(needed: int) -> None:
    """Raise DiskFull unless the folder of temporary files has room."""
    try:
        folder = Path(tempfile.gettempdir())
    except FileNotFoundError:  # Python tried to write a file in each candidate
        message = "no folder of the worker's disk takes temporary files"
        raise DiskFull(message, fatal=True) from None
    check_room(folder, needed)


def disk_full_behind(error: BaseException) -> DiskFull | None:
    """Return ``error`` as DiskFull, if a full disk led to it."""
    if isinstance(error, DiskFull) or not any(map(_is_about_room, led_by(error))):
        return None
    return DiskFull("the worker's disk is full", fatal=not _is_of_use())


def _is_of_use() -> bool:
    """Whether there is room for small jobs, now that the failed one is cleared up."""
    try:
        return shutil.disk_usage(tempfile.gettempdir()).free >= SMALL_JOB
    except OSError:
        return False


def _is_about_room(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return is_about_room(error)
    return isinstance(error, RuntimeError) and _TEXT in str(error).lower()
