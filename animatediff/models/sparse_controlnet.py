"""SparseControlNetModel: a copy of the UNet's encoder that reads images given for some
of the frames.

Source: arXiv 2311.16933, section 3.2. Its own noisy input is zero, so what it computes
depends on the condition, the text and the timestep alone: it is the same for every
seed.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import SparseControlNetConfig, UNet3DConfig
from .context import ControlResiduals, TextContext, TimeContext
from .encoder import VideoEncoder


class ConditionEmbedding(nn.Module):
    """Pixels to latent size: three halvings between pairs of convolutions. Source:
    arXiv 2302.05543, section 3.3.
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
        """(f, c, H, W) -> (f, c_out, H / 8, W / 8)"""
        x = F.silu(self.conv_in(x))
        for block in self.blocks:
            x = F.silu(block(x))
        return self.conv_out(x)


def _zero(conv: nn.Conv2d) -> nn.Conv2d:
    """A new branch must change nothing: its last layers start at zero."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class SparseControlNetModel(VideoEncoder):
    """Images at chosen frames -> what to add to the UNet's skip connections and middle
    block.
    """

    def __init__(
        self,
        config: UNet3DConfig,
        control: SparseControlNetConfig,
        attention: str = "sdpa",
    ) -> None:
        super().__init__(config, attention)
        self.control = control
        widths = config.block_out_channels
        channels_in = control.conditioning_channels + 1  # and the mask
        self.controlnet_cond_embedding = (
            _zero(nn.Conv2d(channels_in, widths[0], 3, padding=1))
            if control.use_simplified_condition_embedding
            else ConditionEmbedding(channels_in, control.embedding_channels, widths[0])
        )
        skips = [widths[0]]
        for level, width in enumerate(widths):
            skips += [width] * (config.layers_per_block + (level < len(widths) - 1))
        self.controlnet_down_blocks = nn.ModuleList(
            _zero(nn.Conv2d(width, width, 1)) for width in skips
        )
        self.controlnet_mid_block = _zero(nn.Conv2d(widths[-1], widths[-1], 1))
        self.number_layers()
        self.set_motion(control.motion)

    def embed_condition(self, condition: Tensor) -> Tensor:
        """Images and mask (1, c + 1, f, h, w) -> (f, c, h / 8, w / 8) (or h, w for
        latents). Once a job.
        """
        frames = (
            condition[0]
            .transpose(0, 1)
            .to(self.device, self.dtype, memory_format=torch.channels_last)
        )
        embedded = self.controlnet_cond_embedding(frames)
        if (
            self.conv_in.bias is not None
        ):  # all that conv_in gives for a sample of zeros
            embedded = embedded + self.conv_in.bias[None, :, None, None]
        return embedded

    def predict(
        self, embedded: Tensor, time: TimeContext, text: TextContext
    ) -> ControlResiduals:
        """What to add for each of the b texts, (b f, c, h, w), from one
        ``embed_condition`` for all of them.
        """
        num_frames, batch = embedded.shape[0], text[0][0].shape[0]
        return self.residuals(embedded.repeat(batch, 1, 1, 1), num_frames, time, text)

    def residuals(
        self, embedded: Tensor, num_frames: int, time: TimeContext, text: TextContext
    ) -> ControlResiduals:
        """As ``predict``, from an ``embed_condition`` for each of the b texts: (b f, c,
        h, w)
        """
        x = embedded.contiguous(memory_format=torch.channels_last)
        skips, mid = self.encode(x, self.context(num_frames, time, text))
        down = [
            conv(skip)
            for conv, skip in zip(self.controlnet_down_blocks, skips, strict=True)
        ]
        return ControlResiduals(down, self.controlnet_mid_block(mid))
