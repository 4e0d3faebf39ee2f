"""What every block of one UNet call shares: fixed before the call, the same for all blocks."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .attention import AttentionFunction

TextContext = Sequence[tuple[Tensor, Tensor]]
"""Per cross-attention, in the order of the model: text keys and values, each (b, heads, m, d / heads)."""

TimeContext = Sequence[Tensor]
"""Per resnet, in the order of the model: its projected timestep embedding, (b, c) or (1, c) for the whole batch."""


@dataclass(frozen=True)
class FrameContext:
    """``num_frames`` says how (b f) unfolds; ``cross_frame_norm`` is v1's GroupNorm over all frames of a video."""

    num_frames: int
    text: TextContext
    time: TimeContext
    attend: AttentionFunction
    cross_frame_norm: bool = False
