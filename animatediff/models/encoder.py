"""The half that the UNet and SparseCtrl's branch share, down to the middle block."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import MotionModuleConfig, UNet3DConfig
from .attention import attention_backend
from .blocks import CrossAttention, DownBlock, Layers, MidBlock
from .context import FrameContext, Schedule, TextContext, TimeContext
from .resnet import ResnetBlock


def timestep_sinusoid(timesteps: Tensor, dim: int) -> Tensor:
    """Embed timesteps (t,) as (t, dim), float32: cosines, then sines, base 10000.

    Source: arXiv 2006.11239, appendix B.
    """
    half = dim // 2
    position = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    exponent = -math.log(10000) * position / half
    angles = timesteps[:, None].float() * exponent.exp()
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimestepEmbedding(nn.Module):
    """Two linear layers on the sinusoid of a timestep."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_dim, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (t, in_dim) to (t, dim)."""
        return self.linear_2(F.silu(self.linear_1(x)))


def repeated(x: Tensor, images: int) -> Tensor:
    """Repeat (b f, c, h, w), channels_last, to that many images."""
    times = images // x.shape[0]
    return torch.cat([x] * times) if times > 1 else x


class VideoEncoder(nn.Module):
    """Frames down to the lowest resolution, with motion slots in every block.

    What does not depend on the latents is computed before the first step:
    ``encode_text`` once a prompt, ``schedule`` once a run. A subclass adds its own
    layers and then calls ``number_layers``.
    """

    def __init__(self, config: UNet3DConfig, attention: str = "sdpa") -> None:
        super().__init__()
        self.config = config
        self.attention = attention_backend(attention)
        widths = config.block_out_channels
        levels = range(len(widths))
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(widths[0], config.time_embed_dim)
        self.down_blocks = nn.ModuleList(DownBlock(config, level) for level in levels)
        self.mid_block = MidBlock(config)
        self.motion: MotionModuleConfig | None = None
        self.cross_frame_norm = False
        """Whether resnets and conv_norm_out normalise over all frames, as v1 does."""

    def number_layers(self) -> None:
        """Tell every block where its layers stand in the precomputed lists."""
        self._resnets: list[ResnetBlock] = []
        self._cross_attentions: list[CrossAttention] = []
        for block in self.modules():
            if isinstance(block, Layers):
                block.first_resnet = len(self._resnets)
                block.first_attention = len(self._cross_attentions)
            elif isinstance(block, ResnetBlock):
                self._resnets.append(block)
            elif isinstance(block, CrossAttention):
                self._cross_attentions.append(block)

    def set_motion(self, motion: MotionModuleConfig | None) -> None:
        """Fill every motion slot with a new module, or empty all slots.

        A new module is the identity until weights are loaded.
        """
        for block in self.modules():
            if isinstance(block, Layers):
                block.set_motion(motion)
        self.motion = motion
        self.cross_frame_norm = motion is not None and not motion.use_inflated_groupnorm

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.conv_in.weight.dtype

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.conv_in.weight.device

    def encode_text(self, encoder_hidden_states: Tensor) -> TextContext:
        """Turn text embeddings (b, m, d) into keys and values for each layer."""
        states = encoder_hidden_states.to(self.dtype)
        return [attention.keys_values(states) for attention in self._cross_attentions]

    def embed_timesteps(self, timesteps: Tensor) -> TimeContext:
        """Return what timesteps (t,) add in every resnet: (t, c) each.

        The bias of the convolution that they are added to is in it.
        """
        width = self.config.block_out_channels[0]
        sinusoid = timestep_sinusoid(timesteps.to(self.device), width)
        embedding = F.silu(self.time_embedding(sinusoid.to(self.dtype)))
        return [resnet.rows_of_time(embedding) for resnet in self._resnets]

    def schedule(self, timesteps: Tensor) -> Schedule:
        """Project all timesteps (t,) of a run at once."""
        return Schedule(self.embed_timesteps(timesteps))

    def context(
        self, num_frames: int, time: TimeContext, text: TextContext
    ) -> FrameContext:
        """Return what all blocks share during one call."""
        attend = self.attention.attend
        return FrameContext(num_frames, text, time, attend, self.cross_frame_norm)

    def descend(self, x: Tensor, context: FrameContext) -> list[Tensor]:
        """Run the down and middle blocks on the output of conv_in, (b f, c, h, w).

        Returns the features: all skip connections, top to bottom, and then the middle
        block's output. A feature that k texts share has the k-th part of the images.
        """
        features = [x]
        for block in self.down_blocks:
            x, skips = block(x, context)
            features += skips
        return [*features, self.mid_block(x, context)]
