"""The half that the UNet and SparseCtrl's branch have in common: input, timestep, down
and middle blocks.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import MotionModuleConfig, UNet3DConfig
from .attention import attention_function
from .blocks import CrossAttention, DownBlock, Layers, MidBlock
from .context import FrameContext, TextContext, TimeContext
from .motion_module import VanillaTemporalModule
from .resnet import ResnetBlock


def timestep_sinusoid(timesteps: Tensor, dim: int) -> Tensor:
    """(t,) -> (t, dim), float32: cosines then sines, base 10000. Source: arXiv
    2006.11239, appendix B.
    """
    half = dim // 2
    exponent = (
        -math.log(10000)
        * torch.arange(half, dtype=torch.float32, device=timesteps.device)
        / half
    )
    angles = timesteps[:, None].float() * exponent.exp()
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimestepEmbedding(nn.Module):
    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_dim, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(t, in_dim) -> (t, dim)"""
        return self.linear_2(F.silu(self.linear_1(x)))


class VideoEncoder(nn.Module):
    """Frames down to the lowest resolution, with motion slots in every block.

    Everything that does not depend on the latents can be computed beforehand:
    ``encode_text`` once a prompt, ``embed_timesteps`` once a schedule. A subclass adds
    its own layers and then calls ``number_layers``.
    """

    def __init__(self, config: UNet3DConfig, attention: str = "sdpa") -> None:
        super().__init__()
        self.config = config
        self.attention_function = attention_function(attention)
        widths = config.block_out_channels
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(widths[0], config.time_embed_dim)
        self.down_blocks = nn.ModuleList(
            DownBlock(config, level) for level in range(len(widths))
        )
        self.mid_block = MidBlock(config)
        self.motion: MotionModuleConfig | None = None
        self.cross_frame_norm = False
        """Whether resnets and conv_norm_out take GroupNorm statistics over all frames:
        what v1 was trained with.
        """

    def number_layers(self) -> None:
        """Tell every resnet and cross-attention its place in ``embed_timesteps`` and
        ``encode_text``.
        """
        self._resnets = [m for m in self.modules() if isinstance(m, ResnetBlock)]
        self._cross_attentions = [
            m for m in self.modules() if isinstance(m, CrossAttention)
        ]
        for i, module in enumerate(self._resnets):
            module.index = i
        for i, module in enumerate(self._cross_attentions):
            module.index = i

    def set_motion(self, motion: MotionModuleConfig | None) -> None:
        """Fill every motion slot with a new module (the identity until weights are
        loaded), or empty them all.
        """
        for block in self.modules():
            if not isinstance(block, Layers):
                continue
            wanted = motion is not None and (
                motion.use_mid_block or not isinstance(block, MidBlock)
            )
            for i in range(len(block.motion_modules)):
                module = (
                    VanillaTemporalModule(block.channels, motion)
                    if wanted and motion
                    else None
                )
                block.motion_modules._modules[str(i)] = module  # pyright: ignore[reportArgumentType]
        self.motion = motion
        self.cross_frame_norm = motion is not None and not motion.use_inflated_groupnorm

    @property
    def dtype(self) -> torch.dtype:
        return self.conv_in.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.conv_in.weight.device

    def encode_text(self, encoder_hidden_states: Tensor) -> TextContext:
        """Text embeddings (b, m, d) -> keys and values of every cross-attention."""
        states = encoder_hidden_states.to(self.dtype)
        return [attention.keys_values(states) for attention in self._cross_attentions]

    def embed_timesteps(self, timesteps: Tensor) -> TimeContext:
        """Timesteps (t,) -> for every resnet what it adds at each of them, (t, c)."""
        sinusoid = timestep_sinusoid(
            timesteps.to(self.device), self.config.block_out_channels[0]
        )
        embedding = F.silu(self.time_embedding(sinusoid.to(self.dtype)))
        return [resnet.time_emb_proj(embedding) for resnet in self._resnets]

    def context(
        self, num_frames: int, time: TimeContext, text: TextContext
    ) -> FrameContext:
        return FrameContext(
            num_frames, text, time, self.attention_function, self.cross_frame_norm
        )

    def encode(self, x: Tensor, context: FrameContext) -> tuple[list[Tensor], Tensor]:
        """What follows conv_in: (b f, c, h, w) -> skip connections, top to bottom, and
        the middle block's output.
        """
        skips = [x]
        for block in self.down_blocks:
            x, new = block(x, context)
            skips += new
        return skips, self.mid_block(x, context)
