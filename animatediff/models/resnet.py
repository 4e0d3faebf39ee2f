"""Convolutional parts. Images are (b f, c, h, w) in channels_last memory order all the
way through.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .context import FrameContext


def group_norm(norm: nn.GroupNorm, x: Tensor, across_frames: int = 1) -> Tensor:
    """GroupNorm of (b f, c, h, w) that keeps channels_last.

    Statistics are taken per frame, or, with ``across_frames`` = f, over all f frames of
    a video at once (motion modules v1 were trained with a UNet that did so;
    ``use_inflated_groupnorm: false`` in the published config).
    """
    if norm.weight.requires_grad and not x.requires_grad and torch.is_grad_enabled():
        # torch 2.13 on the CPU: the backward pass of channels_last is a segmentation
        # fault
        x = x.contiguous()
    # not F.group_norm, which refuses groups of one value: a single frame of 1x1 in a
    # narrow model has them
    normed = partial(
        torch.group_norm,
        num_groups=norm.num_groups,
        weight=norm.weight,
        bias=norm.bias,
        eps=norm.eps,
    )
    if across_frames > 1:
        video = x.unflatten(0, (-1, across_frames)).transpose(1, 2)  # (b, c, f, h, w)
        x = normed(video).transpose(1, 2).flatten(0, 1)
    else:
        x = normed(x)
    return x.contiguous(memory_format=torch.channels_last)


class ResnetBlock(nn.Module):
    """norm, SiLU, conv; add the timestep; norm, SiLU, conv; add the input."""

    index = 0
    """Place among the UNet's resnets: where this one's row stands in FrameContext.time.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        time_dim: int,
        groups: int,
        eps: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_dim, out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = (
            nn.Conv2d(in_channels, out_channels, 1)
            if in_channels != out_channels
            else None
        )

    def forward(self, x: Tensor, context: FrameContext) -> Tensor:
        """(b f, c_in, h, w) -> (b f, c_out, h, w)"""
        frames = context.num_frames if context.cross_frame_norm else 1
        time = context.time[self.index]
        if time.shape[0] > 1:  # (b, c) -> (b f, c)
            time = time.repeat_interleave(context.num_frames, dim=0)
        hidden = self.conv1(F.silu(group_norm(self.norm1, x, frames)))
        hidden = hidden + time[:, :, None, None]
        hidden = self.conv2(F.silu(group_norm(self.norm2, hidden, frames)))
        return hidden + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(b f, c, h, w) -> (b f, c, ceil(h / 2), ceil(w / 2))"""
        return self.conv(x)


class Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(b f, c, h, w) -> (b f, c, *size). The size is given, since an odd one cannot
        be guessed from its half.
        """
        return self.conv(F.interpolate(x, size=size, mode="nearest"))
