"""The motion module: what AnimateDiff adds to an image model.

It is a transformer along the frame axis, with one sequence per spatial position
(arXiv 2307.04725, section 4.2). Parameter names are those of the published files.
"""

import math

import torch
from torch import Tensor, nn

from ..config import MotionModuleConfig
from .attention import Attention, AttentionFunction, FeedForward
from .norm import GroupNorm


def sinusoid_table(length: int, dim: int) -> Tensor:
    """Return interleaved sines and cosines, base 10000: (1, length, dim).

    Always computed in float32, as the published modules were trained. Source: arXiv
    1706.03762, section 3.5.
    """
    position = torch.arange(length, dtype=torch.float32)[:, None]
    exponent = torch.arange(0, dim, 2, dtype=torch.float32)
    frequency = torch.exp(exponent * (-math.log(10000.0) / dim))
    table = torch.empty(1, length, dim)
    table[0, :, 0::2] = torch.sin(position * frequency)
    table[0, :, 1::2] = torch.cos(position * frequency)
    return table


class PositionalEncoding(nn.Module):
    """The frame's number as a vector.

    The table is no weight: it is computed, and never loaded or saved.
    """

    pe: Tensor

    def __init__(self, dim: int, max_length: int) -> None:
        super().__init__()
        self.dim, self.max_length = dim, max_length
        self.register_buffer("pe", sinusoid_table(max_length, dim), persistent=False)

    def reset(self, device: torch.device, dtype: torch.dtype) -> None:
        """Compute the table of a module that was built on the meta device."""
        self.pe = sinusoid_table(self.max_length, self.dim).to(device, dtype)

    def forward(self, tokens: Tensor) -> Tensor:
        """Add the table to tokens (n, f, d)."""
        return tokens + self.pe[:, : tokens.shape[1]]


def reset_positional_tables(
    model: nn.Module, device: torch.device, dtype: torch.dtype
) -> None:
    """Compute the table of every motion module in a model built on the meta device."""
    for module in model.modules():
        if isinstance(module, PositionalEncoding):
            module.reset(device, dtype)


class TemporalAttention(Attention):
    """Self-attention over frames.

    Queries, keys and values all see the positional encoding.
    """

    def __init__(self, dim: int, heads: int, max_length: int | None) -> None:
        super().__init__(dim, heads)
        self.pos_encoder = PositionalEncoding(dim, max_length) if max_length else None

    def attend_to_self(self, tokens: Tensor, attend: AttentionFunction) -> Tensor:
        """Attend from tokens (n, f, d) to the same tokens."""
        if self.pos_encoder is not None:
            tokens = self.pos_encoder(tokens)
        return super().attend_to_self(tokens, attend)


class TemporalTransformerBlock(nn.Module):
    """Self-attention over frames, once or several times, and feed-forward."""

    def __init__(self, dim: int, config: MotionModuleConfig) -> None:
        super().__init__()
        heads, count = config.num_attention_heads, range(config.num_attention_blocks)
        length = config.max_length if config.use_positional_encoding else None
        self.attention_blocks = nn.ModuleList(
            TemporalAttention(dim, heads, length) for _ in count
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in count)
        self.ff = FeedForward(dim)
        self.ff_norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, attend: AttentionFunction) -> Tensor:
        """Map tokens (n, f, d) to (n, f, d)."""
        for attention, norm in zip(self.attention_blocks, self.norms, strict=True):
            assert isinstance(attention, TemporalAttention)  # noqa: S101 - for the types
            tokens = tokens + attention.attend_to_self(norm(tokens), attend)
        return tokens + self.ff(self.ff_norm(tokens))


class TemporalTransformer3DModel(nn.Module):
    """GroupNorm PER FRAME, a projection, blocks along the frames, a projection."""

    def __init__(self, channels: int, config: MotionModuleConfig) -> None:
        super().__init__()
        count = range(config.num_transformer_blocks)
        self.norm = GroupNorm(config.norm_num_groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            TemporalTransformerBlock(channels, config) for _ in count
        )
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, num_frames: int, attend: AttentionFunction) -> Tensor:
        """Map (b f, c, h, w) to (b f, c, h, w), both channels_last; adds the input."""
        height, width = x.shape[2:]
        frames = self.norm(x).permute(0, 2, 3, 1)  # (b f, h, w, c), a view
        videos = frames.reshape(-1, num_frames, height * width, frames.shape[-1])
        tokens = videos.transpose(1, 2).flatten(0, 1)  # (b hw, f, c)
        tokens = self.proj_in(tokens)
        for block in self.transformer_blocks:
            tokens = block(tokens, attend)
        videos = self.proj_out(tokens).unflatten(0, (-1, height * width))
        frames = videos.transpose(1, 2).reshape(-1, height, width, x.shape[1])
        return x + frames.permute(0, 3, 1, 2)


class VanillaTemporalModule(nn.Module):
    """One motion module for ``channels`` channels, under the published name.

    It starts as the identity: proj_out is zero, as in the paper, so that training
    begins from the image model. Raises ValueError if there are too many frames.
    """

    def __init__(self, channels: int, config: MotionModuleConfig) -> None:
        super().__init__()
        self.max_length = config.max_length if config.use_positional_encoding else None
        self.temporal_transformer = TemporalTransformer3DModel(channels, config)
        nn.init.zeros_(self.temporal_transformer.proj_out.weight)
        nn.init.zeros_(self.temporal_transformer.proj_out.bias)

    def forward(self, x: Tensor, num_frames: int, attend: AttentionFunction) -> Tensor:
        """Map (b f, c, h, w) to (b f, c, h, w)."""
        if self.max_length is not None and num_frames > self.max_length:
            raise ValueError(
                f"{num_frames} frames are more than the {self.max_length} positions of"
                " this motion module's table"
            )
        return self.temporal_transformer(x, num_frames, attend)
