"""The motion module: what AnimateDiff adds to an image model.

It is a transformer along the frame axis, with one sequence per spatial position
(arXiv 2307.04725, section 4.2). Parameter names are those of the published files.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn

from ..config import MotionModuleConfig
from ..kernels.attention import temporal_attention
from .attention import (
    Attention,
    AttentionFunction,
    FeedForward,
    to_image,
    to_tokens,
)
from .norm import GroupNorm, LayerNorm


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

    def forward(self, num_frames: int) -> Tensor:
        """Return the table of the first frames, (f, d)."""
        return self.pe[0, :num_frames]


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

    def table(self, num_frames: int) -> Tensor | None:
        """Return what is added to the tokens of each frame, (f, d)."""
        return None if self.pos_encoder is None else self.pos_encoder(num_frames)

    def attend_to_frames(
        self, tokens: Tensor, num_frames: int, attend: AttentionFunction
    ) -> Tensor:
        """Attend from tokens (b f, n, d) to those of the same position."""
        projections = self.projections(tokens)
        attended = temporal_attention(*projections, num_frames, self.heads, attend)
        return self.to_out[0](attended)


class TemporalTransformerBlock(nn.Module):
    """Self-attention over frames, once or several times, and feed-forward."""

    def __init__(self, dim: int, config: MotionModuleConfig) -> None:
        super().__init__()
        heads, count = config.num_attention_heads, range(config.num_attention_blocks)
        length = config.max_length if config.use_positional_encoding else None
        self.attention_blocks = nn.ModuleList(
            TemporalAttention(dim, heads, length) for _ in count
        )
        self.norms = nn.ModuleList(LayerNorm(dim) for _ in count)
        self.ff = FeedForward(dim)
        self.ff_norm = LayerNorm(dim)

    def forward(
        self, tokens: Tensor, num_frames: int, attend: AttentionFunction
    ) -> Tensor:
        """Map tokens (b f, n, d) to (b f, n, d)."""
        attentions = cast("list[TemporalAttention]", list(self.attention_blocks))
        first, *others = cast("list[LayerNorm]", [*self.norms, self.ff_norm])
        tables = [attention.table(num_frames) for attention in attentions]
        normed = first(tokens, tables[0])
        for attention, norm, table in zip(
            attentions, others, [*tables[1:], None], strict=True
        ):
            attended = attention.attend_to_frames(normed, num_frames, attend)
            tokens, normed = norm.after(attended, tokens, table)
            del attended  # the gate below needs the most memory of all
        return tokens + self.ff(normed)


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
        tokens = self.proj_in(to_tokens(self.norm(x)))
        for block in self.transformer_blocks:
            tokens = block(tokens, num_frames, attend)
        return x + to_image(self.proj_out(tokens), x.shape[2:])


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
