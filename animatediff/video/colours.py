"""At most 255 colours for a whole clip, and its frames in them.

A still part of a clip keeps its colours: whatever hides the steps between two colours
depends on a pixel's place and value alone. Error diffusion would carry each change of
the picture into all that lies right of it and below, and a GIF would flicker and grow.
"""

from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

Frame: TypeAlias = npt.NDArray[np.uint8]
"""RGB pixels (h, w, 3), or indices of colours (h, w)."""

UNCHANGED = 255
"""The index that is no colour. It means "as in the frame before"."""
MOST_COLOURS = 255
_SAMPLE = 1 << 15  # pixels; more of them take longer and give no better colours
_ROUNDS = 3  # of k-means, from Pillow's choice of colours to a better one
_KEPT = 12.0  # squared levels of RGB; a dither pattern moves pixels by more than that


class Colours(Protocol):
    """The colours of one clip, and how its frames are shown in them."""

    table: Frame
    """(n, 3)."""

    def indices(self, frame: Frame, previous: Frame) -> Frame:
        """Return the indices of a frame's pixels (h, w).

        ``previous`` holds those of the frame before it, or UNCHANGED for the first one.
        """
        ...


def colours_of(frames: Frame) -> Colours:
    """Choose the colours of uint8 frames (f, h, w, 3).

    A clip of few colours is shown exactly.
    """
    few = _few(frames)
    return _Dithered(_sample(frames)) if few is None else _Exact(few)


class _Exact:
    def __init__(self, packed: npt.NDArray[np.uint32]) -> None:
        self._packed = packed
        bytes_of_each = packed[:, None] >> np.array([16, 8, 0], np.uint32)
        self.table = (bytes_of_each & 255).astype(np.uint8)

    def indices(self, frame: Frame, previous: Frame) -> Frame:  # noqa: ARG002 - others use it
        return np.searchsorted(self._packed, _packed(frame)).astype(np.uint8)


class _Dithered:
    """Dither by an 8x8 pattern that is fixed to the frame.

    Its height is the mean error of the colours, so that good ones get little of it. A
    pixel keeps its colour where the best one would be hardly better.
    """

    def __init__(self, sample: Frame) -> None:
        picture = Image.fromarray(sample)
        # Of Pillow's methods, this one keeps dithered areas nearest to the true colour.
        method = Image.Quantize.MAXCOVERAGE
        self._palette = picture.quantize(MOST_COLOURS, method=method, kmeans=_ROUNDS)
        colours = bytes(self._palette.getpalette() or [])
        self.table = np.frombuffer(colours, np.uint8).reshape(-1, 3)[:MOST_COLOURS]
        self._shown = np.full((256, 3), np.inf, np.float32)
        self._shown[: len(self.table)] = self.table
        error = self._shown[self._nearest(sample)] - sample
        self._pattern = bayer(3) * np.sqrt(np.mean(error**2))

    def indices(self, frame: Frame, previous: Frame) -> Frame:
        height, width = frame.shape[:2]
        rows, columns = -(-height // 8), -(-width // 8)
        pattern = np.tile(self._pattern, (rows, columns))[:height, :width, None]
        dithered = np.rint(frame + pattern).clip(0, 255).astype(np.uint8)
        best = self._nearest(dithered)
        kept = self._error(previous, frame) <= self._error(best, frame) + _KEPT
        return np.where(kept, previous, best)

    def _nearest(self, pixels: Frame) -> Frame:
        shown = Image.fromarray(pixels).quantize(
            palette=self._palette, dither=Image.Dither.NONE
        )
        return np.asarray(shown)

    def _error(self, indices: Frame, frame: Frame) -> npt.NDArray[np.float32]:
        return ((self._shown[indices] - frame) ** 2).sum(-1)


def bayer(order: int) -> npt.NDArray[np.float32]:
    """Return the ordered-dither pattern of side 2 ** order, from -1/2 to 1/2.

    Source: B. E. Bayer, An optimum method for two-level rendition of continuous-tone
    pictures, ICC 1973.
    """
    steps = np.zeros((1, 1))
    for _ in range(order):
        steps = np.block([[4 * steps, 4 * steps + 2], [4 * steps + 3, 4 * steps + 1]])
    return ((steps + 0.5) / steps.size - 0.5).astype(np.float32)


def _sample(frames: Frame) -> Frame:
    """(1, n, 3), drawn at random: a stride would see only some columns.

    The seed is fixed: the same clip gives the same file.
    """
    pixels = frames.reshape(-1, 3)
    if len(pixels) > _SAMPLE:
        random = np.random.default_rng(0)
        pixels = pixels[random.integers(len(pixels), size=_SAMPLE)]
    return pixels[None]


def _few(frames: Frame) -> npt.NDArray[np.uint32] | None:
    """Return all colours of a clip in order, packed; None if they are too many."""
    colours = np.zeros(0, np.uint32)
    for frame in frames:
        colours = np.union1d(colours, _packed(frame))
        if len(colours) > MOST_COLOURS:
            return None
    return colours


def _packed(pixels: Frame) -> npt.NDArray[np.uint32]:
    return pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
