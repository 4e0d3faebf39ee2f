"""Convolutional parts. Images are (b f, c, h, w), channels_last from start to end."""

import torch.nn.functional as F
from torch import Tensor, nn

from .context import FrameContext
from .norm import GroupNorm


class ResnetBlock(nn.Module):
    """norm, SiLU, conv; add the timestep; norm, SiLU, conv; add the input."""

    index = 0
    """Place of its row in ``FrameContext.time``."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        time_dim: int,
        groups: int,
        eps: float,
    ) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, in_channels, eps=eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_dim, out_channels)
        self.norm2 = GroupNorm(groups, out_channels, eps=eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = None
        if in_channels != out_channels:
            self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, context: FrameContext) -> Tensor:
        """Map (b f, c_in, h, w) to (b f, c_out, h, w)."""
        frames = context.num_frames if context.cross_frame_norm else 1
        time = context.time[self.index]
        if time.shape[0] > 1:  # (b, c) -> (b f, c)
            time = time.repeat_interleave(context.num_frames, dim=0)
        hidden = self.conv1(self.norm1(x, frames, silu=True))
        hidden = hidden + time[:, :, None, None]
        hidden = self.conv2(self.norm2(hidden, frames, silu=True))
        if self.conv_shortcut is not None:
            x = self.conv_shortcut(x)
        return hidden + x


class Downsample(nn.Module):
    """A convolution that halves height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b f, c, h, w) to (b f, c, ceil(h / 2), ceil(w / 2))."""
        return self.conv(x)


class Upsample(nn.Module):
    """Nearest-neighbour interpolation, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Map (b f, c, h, w) to (b f, c, *size).

        The caller knows the size: an odd one does not follow from its half.
        """
        return self.conv(F.interpolate(x, size=size, mode="nearest"))
