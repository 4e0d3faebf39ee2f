"""A finished clip, and all that it takes to make it again."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..video.clip import Video
from .clip import Clip
from .files import JobFiles


@dataclass(frozen=True)
class Loaded:
    """One weight file of a clip: its name in the job, and the sha256 of its content."""

    name: str
    sha256: str


@dataclass(frozen=True, eq=False)
class Generated:
    """A finished clip.

    ``files`` are in the order of the job's fields. ``timings`` are seconds by phase.
    """

    video: Video
    clip: Clip
    model: Loaded
    files: JobFiles[Loaded]
    timings: Mapping[str, float]
    warnings: tuple[str, ...]
