"""Windows: a clip that is longer than the motion modules' table, in overlapping parts.

Each step runs the UNet on every window, and the predictions of all windows that hold a
frame are averaged. The rules are those of the program that people use most for long
clips, ComfyUI-AnimateDiff-Evolved; the numbers of its lists are in the tests.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

Window = tuple[int, ...]
"""Frames of the clip, in the order in which the motion modules see them."""

LEAST_WEIGHT = 1e-6
"""The weight at the very edge of a ramp, for frames that no other window holds."""


@dataclass(frozen=True)
class Layout:
    """How windows of ``length`` frames lie on a clip of ``num_frames``.

    Neighbouring windows share ``overlap`` frames. ``stride`` is the number of passes:
    in each one, neighbouring frames of a window lie twice as far apart as in the one
    before.
    """

    num_frames: int
    length: int
    overlap: int
    stride: int = 1

    @property
    def spreads(self) -> Sequence[int]:
        """The distance of neighbouring frames in each pass: 1, 2, 4, while they fit."""
        spreads = [2**i for i in range(self.stride)]
        return [each for each in spreads if each * self.length <= self.num_frames]


def static_windows(layout: Layout, step: int) -> list[Window]:
    """Return windows that are the same in every step; the last ends with the clip."""
    del step
    last = layout.num_frames - layout.length
    starts = range(0, last, layout.length - layout.overlap)
    return [_window(start, layout.length) for start in (*starts, last)]


def looped_windows(
    layout: Layout, step: int, *, is_closed: bool = True
) -> list[Window]:
    """Return windows that move from step to step, and go from the end to the start.

    Without ``is_closed``, no window starts in the last ``overlap`` frames of a round.
    """
    windows: list[Window] = []
    fraction = bit_reversed_fraction(step)
    shift = round(layout.num_frames * fraction)
    end = layout.num_frames + shift - (0 if is_closed else layout.overlap)
    for spread in layout.spreads:
        start = shift + int(fraction * spread)
        for first in range(start, end, layout.length * spread - layout.overlap):
            window = _window(first, layout.length, spread)
            windows.append(tuple(frame % layout.num_frames for frame in window))
    return windows


def uniform_windows(layout: Layout, step: int) -> list[Window]:
    """Return windows that move from step to step and stay inside the clip.

    A looped window that would go from the end to the start is moved to the end. If the
    next one does not hold the first frame that is lost so, a window that starts there
    is added. Frames that are still in no window get windows of their own.
    """
    windows = looped_windows(layout, step, is_closed=False)
    inside: list[Window] = []
    for place, window in enumerate(windows, 1):
        lost = _frame_behind_end(window)
        if lost is None:
            inside.append(window)
            continue
        inside.append(_moved_to_end(window, layout.num_frames))
        following = windows[place] if place < len(windows) else inside[0]
        if lost not in following:
            inside.append(_window(lost, layout.length))
    return [*dict.fromkeys(inside), *_missing_windows(layout, inside)]


@dataclass(frozen=True)
class WindowSchedule:
    """A rule by which windows lie on a clip at a step (from 0)."""

    title: str
    windows: Callable[[Layout, int], list[Window]]


SCHEDULES: Mapping[str, WindowSchedule] = {
    "static": WindowSchedule("the same in every step", static_windows),
    "uniform": WindowSchedule("moved from step to step", uniform_windows),
    "looped": WindowSchedule("also from the last frame to the first", looped_windows),
}


def flat_weights(layout: Layout, window: Window) -> list[float]:
    """Return the same weight for each frame."""
    del layout
    return [1.0] * len(window)


def pyramid_weights(layout: Layout, window: Window) -> list[float]:
    """Return 1, 2, ..., 2, 1: the distance from the nearer edge of the window."""
    del layout
    count = len(window)
    return [float(min(place + 1, count - place)) for place in range(count)]


def ramp_weights(layout: Layout, window: Window) -> list[float]:
    """Return 1 with a linear ramp at each edge that is not the clip's own."""
    steps = max(layout.overlap - 1, 1)
    ramp = [max(place / steps, LEAST_WEIGHT) for place in range(layout.overlap)]
    weights = [1.0] * len(window)
    if window[0] != 0:
        weights[: len(ramp)] = ramp
    if ramp and window[-1] != layout.num_frames - 1:
        weights[-len(ramp) :] = reversed(ramp)
    return weights


@dataclass(frozen=True)
class Fuse:
    """A rule by which the frames of a window count in the average of all windows."""

    title: str
    weights: Callable[[Layout, Window], list[float]]


FUSES: Mapping[str, Fuse] = {
    "flat": Fuse("all frames alike", flat_weights),
    "pyramid": Fuse("the more, the farther from the window's edges", pyramid_weights),
    "overlap_linear": Fuse("less where windows overlap", ramp_weights),
}


def bit_reversed_fraction(step: int) -> float:
    """Return 0, 1/2, 1/4, 3/4, 1/8, ...: the van der Corput sequence in base 2."""
    return int(f"{step:064b}"[::-1], 2) / 2**64


def _missing_windows(layout: Layout, windows: Sequence[Window]) -> list[Window]:
    """Return windows for the frames that no other one holds."""
    added: list[Window] = []
    missing = set(range(layout.num_frames)).difference(*windows)
    while missing:
        first = min(*missing, layout.num_frames - layout.length)
        added.append(_window(first, layout.length))
        missing.difference_update(added[-1])
    return added


def _window(first: int, length: int, spread: int = 1) -> Window:
    return tuple(range(first, first + length * spread, spread))


def _frame_behind_end(window: Window) -> int | None:
    """Return the first frame after a window has gone from the end to the start."""
    pairs = pairwise(window)
    return next((after for before, after in pairs if after < before), None)


def _moved_to_end(window: Window, num_frames: int) -> Window:
    spread = next(b - a for a, b in pairwise(window) if b > a)
    return _window(num_frames - 1 - spread * (len(window) - 1), len(window), spread)
