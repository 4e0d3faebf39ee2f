"""SparseControlNetModel: a copy of the UNet's encoder that reads images of some frames.

Source: arXiv 2311.16933, section 3.2. Its own noisy input is zero. So its output
depends on the condition, the text and the timestep alone, and is the same for every
seed.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import SparseControlNetConfig, UNet3DConfig
from .context import ControlResiduals, TextContext, TimeContext
from .encoder import VideoEncoder, repeated


class ConditionEmbedding(nn.Module):
    """Pixels to latent size: three halvings between pairs of convolutions.

    Source: arXiv 2302.05543, section 3.3.
    """

    def __init__(
        self, channels_in: int, widths: tuple[int, ...], channels_out: int
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(channels_in, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for width, next_width in pairwise(widths):
            self.blocks.append(nn.Conv2d(width, width, 3, padding=1))
            self.blocks.append(nn.Conv2d(width, next_width, 3, padding=1, stride=2))
        self.conv_out = _zero(nn.Conv2d(widths[-1], channels_out, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (f, c, H, W) to (f, c_out, H / 8, W / 8)."""
        x = F.silu(self.conv_in(x))
        for block in self.blocks:
            x = F.silu(block(x))
        return self.conv_out(x)


def _zero(conv: nn.Conv2d) -> nn.Conv2d:
    """Set a last layer to zero, so that a new branch changes nothing."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def _zero_projection(width: int) -> nn.Conv2d:
    return _zero(nn.Conv2d(width, width, 1))


def skip_widths(config: UNet3DConfig) -> list[int]:
    """Return the channels of the UNet's skip connections, top to bottom."""
    widths = config.block_out_channels
    skips = [widths[0]]
    for width in widths[:-1]:
        skips += [width] * (config.layers_per_block + 1)  # and the halving's output
    return skips + [widths[-1]] * config.layers_per_block


class SparseControlNetModel(VideoEncoder):
    """Maps images at chosen frames to residuals of the UNet's features."""

    def __init__(
        self,
        config: UNet3DConfig,
        control: SparseControlNetConfig,
        attention: str = "sdpa",
    ) -> None:
        super().__init__(config, attention)
        self.control = control
        self.controlnet_cond_embedding = _condition_embedding(config, control)
        self.controlnet_down_blocks = nn.ModuleList(
            _zero_projection(width) for width in skip_widths(config)
        )
        self.controlnet_mid_block = _zero_projection(config.block_out_channels[-1])
        self.number_layers()
        self.set_motion(control.motion)

    def embed_condition(self, condition: Tensor) -> Tensor:
        """Embed images and mask (1, c + 1, f, h, w), once a job.

        Returns (f, c, h / 8, w / 8) for pixels and (f, c, h, w) for latents.
        """
        frames = condition[0].transpose(0, 1).to(self.device, self.dtype)
        frames = frames.contiguous(memory_format=torch.channels_last)
        embedded = self.controlnet_cond_embedding(frames)
        if self.conv_in.bias is not None:  # the output of conv_in for a zero sample
            embedded = embedded + self.conv_in.bias[None, :, None, None]
        return embedded

    def predict(
        self, embedded: Tensor, time: TimeContext, text: TextContext
    ) -> ControlResiduals:
        """Compute residuals (b f, c, h, w) for b texts from one ``embed_condition``."""
        return self.residuals(embedded, embedded.shape[0], time, text)

    def residuals(
        self, embedded: Tensor, num_frames: int, time: TimeContext, text: TextContext
    ) -> ControlResiduals:
        """Do as ``predict``, with an embedded condition (b f, c, h, w) for b videos.

        Each has the k-th part of the texts.
        """
        x = embedded.contiguous(memory_format=torch.channels_last)
        *skips, mid = self.descend(x, self.context(num_frames, time, text))
        images = text[0][0].shape[0] * num_frames
        pairs = zip(self.controlnet_down_blocks, skips, strict=True)
        down = [repeated(projection(skip), images) for projection, skip in pairs]
        return ControlResiduals(down, self.controlnet_mid_block(mid))


def _condition_embedding(
    config: UNet3DConfig, control: SparseControlNetConfig
) -> nn.Module:
    channels_in = control.conditioning_channels + 1  # and the mask
    channels_out = config.block_out_channels[0]
    if control.use_simplified_condition_embedding:
        return _zero(nn.Conv2d(channels_in, channels_out, 3, padding=1))
    return ConditionEmbedding(channels_in, control.embedding_channels, channels_out)
