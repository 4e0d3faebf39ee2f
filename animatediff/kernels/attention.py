"""Attention along the frames of a clip, without moving its tokens."""

from collections.abc import Callable

import torch
from torch import Tensor

from .choice import fused

AttentionFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(b, heads, n, d), (b, heads, m, d), (b, heads, m, d) -> (b, heads, n, d)"""

MAX_FRAMES = 64
"""Frames of which one program of the kernel holds all scores."""
MAX_DIM = 256


def temporal_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    frames: int,
    heads: int,
    attend: AttentionFunction,
) -> Tensor:
    """Attend at each position from (b f, n, c) to the same position's f tokens.

    The arguments may be slices of one product's channels. ``attend`` computes where the
    kernel does not.
    """
    if frames <= MAX_FRAMES and _takes(queries, keys, values, heads):
        return _temporal_attention(queries, keys, values, frames, heads)
    videos = (_videos(x, frames, heads) for x in (queries, keys, values))
    # (n, heads, f, d) of each video: no view has videos and positions on one axis.
    attended = [attend(*video) for video in zip(*videos, strict=True)]
    tokens = torch.stack(attended).permute(0, 3, 1, 2, 4)  # (b, f, n, heads, d)
    return tokens.flatten(0, 1).flatten(2)


def _takes(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> bool:
    fits = queries.shape[-1] // heads <= MAX_DIM
    # a token's row begins where the one before ends, whatever else a row holds
    rows = all(
        x.stride(2) == 1 and x.stride(0) == x.shape[1] * x.stride(1)
        for x in (queries, keys, values)
    )
    return fits and rows and fused(queries, keys, values)


def _videos(x: Tensor, frames: int, heads: int) -> Tensor:
    """View (b f, n, c) as (b, n, heads, f, d)."""
    tokens = torch.unflatten(torch.unflatten(x, 0, (-1, frames)), -1, (heads, -1))
    return tokens.permute(0, 2, 3, 1, 4)


@torch.library.custom_op("animatediff::temporal_attention", mutates_args=())
def _temporal_attention(
    queries: Tensor, keys: Tensor, values: Tensor, frames: int, heads: int
) -> Tensor:
    from .gpu import attention

    return attention.temporal_attention(queries, keys, values, frames, heads)


@_temporal_attention.register_fake  # pyright: ignore[reportUnknownMemberType]
def _(queries: Tensor, keys: Tensor, values: Tensor, frames: int, heads: int) -> Tensor:
    del keys, values, frames, heads
    return queries.new_empty(queries.shape)
