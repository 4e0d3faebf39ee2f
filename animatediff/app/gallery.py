"""The clips of a folder with what their files say of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import EncodeError, InvalidRequest
from ..job.again import JobAgain, job_again, read_settings
from ..video import OUTPUT_FORMATS

MAX_CLIPS = 200
"""Clips that a gallery shows."""
_SUFFIXES = {row.suffix for row in OUTPUT_FORMATS.values()}


@dataclass(frozen=True)
class GalleryClip:
    """A file, and the job that its metadata tell; empty for a clip without."""

    path: Path
    job: Mapping[str, Any]

    @classmethod
    def of(cls, path: Path) -> "GalleryClip":
        """Return the clip in a file."""
        return cls(path, _job(path, path.stat().st_mtime_ns))

    @property
    def prompt(self) -> str:
        """The prompt, or the file's name where the file does not tell it."""
        return str(self.job.get("prompt") or self.path.stem)


def clips(folder: Path, words: str = "") -> list[GalleryClip]:
    """Return the clips of ``folder`` whose prompts hold all ``words``, newest first."""
    searched = words.lower().split()
    matches: list[GalleryClip] = []
    for path, changed in _files(folder):
        clip = GalleryClip(path, _job(path, changed))
        if all(word in clip.prompt.lower() for word in searched):
            matches.append(clip)
        if len(matches) == MAX_CLIPS:
            break
    return matches


def _files(folder: Path) -> list[tuple[Path, int]]:
    """The clips with their times of change, the latest first."""
    timed: list[tuple[Path, int]] = []
    for path in folder.glob("*.*"):
        if path.suffix in _SUFFIXES and path.is_file() and not path.is_symlink():
            timed.append((path, path.stat().st_mtime_ns))
    return sorted(timed, key=lambda pair: pair[1], reverse=True)


@lru_cache(maxsize=2000)
def _job(path: Path, _changed: int) -> Mapping[str, Any]:
    try:
        return job_inside(path).fields
    except (EncodeError, InvalidRequest):
        return {}


def job_inside(path: Path) -> JobAgain:
    """Return the job that makes a clip again, from its file.

    Raises EncodeError for a file of another program, and InvalidRequest for a field
    that this version does not know.
    """
    return job_again(read_settings(path))
