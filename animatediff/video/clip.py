"""What goes into a writer and what comes out of it."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from ..errors import EncodeError


@dataclass(frozen=True, eq=False)
class Video:
    """``frames``: uint8 sRGB, (f, h, w, 3). ``fps``: frames per second, at least 1.

    Raises EncodeError if they are anything else.
    """

    frames: np.ndarray
    fps: int

    def __post_init__(self) -> None:
        shape = self.frames.shape
        if (
            self.frames.dtype != np.uint8
            or len(shape) != 4
            or shape[3] != 3
            or 0 in shape
        ):
            raise EncodeError(
                f"frames must be uint8 (f, h, w, 3), got {self.frames.dtype} {shape}"
            )
        if type(self.fps) is not int or self.fps < 1:
            raise EncodeError(
                f"fps must be a whole number of at least 1, got {self.fps!r}"
            )

    @property
    def num_frames(self) -> int:
        return self.frames.shape[0]

    @property
    def height(self) -> int:
        return self.frames.shape[1]

    @property
    def width(self) -> int:
        return self.frames.shape[2]

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.num_frames / self.fps


@dataclass(frozen=True)
class EncodedVideo:
    """A finished file. ``bytes`` is its size, ``sha256`` the hex digest of its content."""

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
    """Whole ticks that each frame stays. Every frame starts within half a tick of its
    true time, so no error adds up.

    At 8 fps and 100 ticks: 12, 13, 12, 13, ...
    """
    starts = [
        -((fps - 2 * i * ticks_per_second) // (2 * fps)) for i in range(num_frames + 1)
    ]  # rounds half down
    return [end - start for start, end in pairwise(starts)]
