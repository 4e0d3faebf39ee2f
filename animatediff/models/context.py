"""What every block of one UNet call shares: fixed before the call, the same for all
blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .attention import AttentionFunction

TextContext = Sequence[tuple[Tensor, Tensor]]
"""Per cross-attention, in the order of the model: text keys and values, each (b, heads,
m, d / heads).
"""

TimeContext = Sequence[Tensor]
"""Per resnet, in the order of the model: its projected timestep embedding, (b, c) or
(1, c) for the whole batch.
"""


@dataclass(frozen=True)
class FrameContext:
    """``num_frames`` says how (b f) unfolds; ``cross_frame_norm`` is v1's GroupNorm
    over all frames of a video.
    """

    num_frames: int
    text: TextContext
    time: TimeContext
    attend: AttentionFunction
    cross_frame_norm: bool = False


@dataclass(frozen=True, eq=False)
class ControlResiduals:
    """What control branches add to the UNet: to each skip connection, top to bottom,
    and to the middle block's output.

    All are (b f, c, h, w).
    """

    down: Sequence[Tensor]
    mid: Tensor

    def __add__(self, other: "ControlResiduals") -> "ControlResiduals":
        return ControlResiduals(
            [a + b for a, b in zip(self.down, other.down, strict=True)],
            self.mid + other.mid,
        )

    def scaled(self, strength: float) -> "ControlResiduals":
        return ControlResiduals(
            [tensor * strength for tensor in self.down], self.mid * strength
        )

    def repeated(self, count: int, num_frames: int) -> "ControlResiduals":
        """Every video ``count`` times in a row: (b f, c, h, w) -> (b count f, c, h, w)"""

        def repeat(x: Tensor) -> Tensor:
            return (
                x.unflatten(0, (-1, num_frames))
                .repeat_interleave(count, dim=0)
                .flatten(0, 1)
            )

        return (
            self
            if count == 1
            else ControlResiduals([repeat(x) for x in self.down], repeat(self.mid))
        )
