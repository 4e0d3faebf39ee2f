"""The values that all blocks share during one call of the UNet."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .attention import AttentionFunction

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of a text for one cross-attention, each (b, heads, m, d / heads)."""

TextContext = Sequence[KeysValues]
"""Keys and values of the text per cross-attention."""

TimeContext = Sequence[Tensor]
"""What a timestep adds in every resnet: (b, c), or (1, c) for all videos."""


@dataclass(frozen=True, eq=False)
class Schedule:
    """What all timesteps of a run add: (t, c) per resnet."""

    tables: Sequence[Tensor]

    def row(self, step: int) -> TimeContext:
        """Return what ``step`` (from 0) adds in every resnet, (1, c) each."""
        return [table[step : step + 1] for table in self.tables]


@dataclass(frozen=True)
class FrameContext:
    """The values that are fixed before a call.

    ``num_frames`` unfolds (b f). ``text`` may have k texts for each video: until the
    first cross-attention, their k results are the same, and computed once.
    ``cross_frame_norm`` is v1's GroupNorm over all frames of a video.
    """

    num_frames: int
    text: TextContext
    time: TimeContext
    attend: AttentionFunction
    cross_frame_norm: bool = False


@dataclass(frozen=True, eq=False)
class ControlResiduals:
    """The sums that controls add: one per skip connection, and one for the middle.

    All are (b f, c, h, w).
    """

    down: Sequence[Tensor]
    mid: Tensor

    def __add__(self, other: "ControlResiduals") -> "ControlResiduals":
        pairs = zip(self.down, other.down, strict=True)
        return ControlResiduals([a + b for a, b in pairs], self.mid + other.mid)

    def added_to(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the UNet's features plus the residuals, see ``VideoEncoder.descend``.

        Source: arXiv 2302.05543, section 3.2.
        """
        residuals = (*self.down, self.mid)
        return [x + added for x, added in zip(features, residuals, strict=True)]

    def scaled(self, strength: float) -> "ControlResiduals":
        """Return the residuals times ``strength``."""
        if strength == 1:
            return self
        down = [tensor * strength for tensor in self.down]
        return ControlResiduals(down, self.mid * strength)

    def repeated(self, count: int, num_frames: int) -> "ControlResiduals":
        """Repeat every video ``count`` times: (b f, ...) to (b count f, ...)."""
        if count == 1:
            return self

        def repeat(x: Tensor) -> Tensor:
            videos = torch.unflatten(x, 0, (-1, num_frames))
            return videos.repeat_interleave(count, dim=0).flatten(0, 1)

        return ControlResiduals([repeat(x) for x in self.down], repeat(self.mid))


def total(residuals: Iterable[ControlResiduals | None]) -> ControlResiduals | None:
    """Add up the residuals of several controls; None is a control at rest."""
    result = None
    for added in residuals:
        if added is not None:
            result = added if result is None else result + added
    return result
