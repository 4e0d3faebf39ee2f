"""Convolutional parts. Images are (b f, c, h, w), channels_last from start to end."""

import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.elementwise import conv_for_norm, conv_residual
from .norm import GroupNorm


class ResnetBlock(nn.Module):
    """norm, SiLU, conv; add the timestep; norm, SiLU, conv; add the input."""

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
            self.conv_shortcut = Shortcut(in_channels, out_channels)

    def rows_of_time(self, embedding: Tensor) -> Tensor:
        """Project (t, time_dim) to what ``forward`` adds to the first convolution."""
        return self.time_emb_proj(embedding) + self.conv1.bias

    def forward(
        self, x: Tensor, time: Tensor, num_frames: int, across_frames: int = 1
    ) -> Tensor:
        """Map (b f, c_in, h, w) to (b f, c_out, h, w).

        ``time`` is (b, c_out), or (1, c_out) for all videos; see ``rows_of_time``.
        ``across_frames`` frames of a video are normalised together.
        """
        normed = self.norm1(x, across_frames, silu=True)
        if time.shape[0] == 1:
            hidden, added = conv_for_norm(normed, self.conv1.weight, time[0])
        else:
            rows = time.repeat_interleave(num_frames, dim=0)  # (b f, c)
            hidden = F.conv2d(normed, self.conv1.weight, padding=1)
            hidden, added = hidden + rows[:, :, None, None], None
        hidden = self.norm2(hidden, across_frames, silu=True, added=added)
        if self.conv_shortcut is not None:
            x = self.conv_shortcut(x)
        return conv_residual(hidden, self.conv2.weight, self.conv2.bias, x)


class Shortcut(nn.Conv2d):
    """A 1x1 convolution, as one product of all positions."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)  # pyright: ignore[reportUnknownMemberType]

    def forward(self, input: Tensor) -> Tensor:
        """Map (b f, c_in, h, w) to (b f, c_out, h, w), both channels_last."""
        positions = input.permute(0, 2, 3, 1)
        product = F.linear(positions, self.weight.flatten(1), self.bias)
        return product.permute(0, 3, 1, 2)


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
