"""The clip that a writer receives, and the facts about the file that it wrote."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import EncodeError
from ..progress import Check, no_check

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, eq=False)
class Video:
    """A clip in memory.

    ``frames``: uint8 sRGB, (f, h, w, 3). ``fps``: frames per second, at least 1. Raises
    EncodeError for any other type, shape or rate.
    """

    frames: "np.ndarray"
    fps: int

    def __post_init__(self) -> None:
        if not _are_rgb_frames(self.frames):
            raise EncodeError(
                "frames must be uint8 (f, h, w, 3), got"
                f" {self.frames.dtype} {self.frames.shape}"
            )
        if type(self.fps) is not int or self.fps < 1:
            raise EncodeError(
                f"fps must be a whole number of at least 1, got {self.fps!r}"
            )

    @property
    def num_frames(self) -> int:
        """The number of frames."""
        return self.frames.shape[0]

    @property
    def height(self) -> int:
        """The height in pixels."""
        return self.frames.shape[1]

    @property
    def width(self) -> int:
        """The width in pixels."""
        return self.frames.shape[2]


@dataclass(frozen=True)
class Encoding:
    """How a clip is written.

    ``quality`` is 1 to 100; lossless formats and GIF ignore it. ``comment`` is a line
    of ASCII for the comment field. ``check`` is called meanwhile; where it raises, all
    that was begun ends.
    """

    quality: int = 90
    comment: str = ""
    check: Check = no_check


@dataclass(frozen=True)
class EncodedVideo:
    """A finished file.

    ``bytes`` is its size, ``sha256`` the hex digest of its content.
    """

    path: Path
    format: str
    mime: str
    bytes: int
    sha256: str
    num_frames: int
    width: int
    height: int
    fps: int


def frame_delays(num_frames: int, fps: int, ticks_per_second: int) -> list[int]:
    """Return how long each frame stays on screen, in whole ticks.

    Every frame starts within half a tick of its exact time, so rounding errors do not
    add up. At 8 fps and 100 ticks per second: 12, 13, 12, 13, ...
    """
    starts = [_start(i, fps, ticks_per_second) for i in range(num_frames + 1)]
    return [end - start for start, end in pairwise(starts)]


def _start(index: int, fps: int, ticks_per_second: int) -> int:
    """``index / fps`` seconds in ticks; half a tick is rounded down."""
    return -((fps - 2 * index * ticks_per_second) // (2 * fps))


def _are_rgb_frames(frames: "np.ndarray") -> bool:
    if frames.dtype != "uint8" or frames.ndim != 4:
        return False
    return frames.shape[3] == 3 and frames.size > 0
