# pyright: basic, reportCallIssue=false, reportArgumentType=false
"""Attention along the frames of a clip: short sequences, one at each position."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs


@triton.jit(do_not_specialize=["frames", "positions", "heads", "scale"])
def attend_along_frames(
    Queries, Keys, Values, Out, frames, positions, heads, scale,
    query_row, key_row, value_row, out_row,
    DIM: tl.constexpr, FRAMES: tl.constexpr, WIDTH: tl.constexpr,
    WIDEN: tl.constexpr,
):  # fmt: skip
    """One head at one position: the scores of all its frames stay in registers.

    Token (b, f, p) begins at its number times the row's stride.
    """
    program = tl.program_id(0)
    head, place = program % heads, program // heads
    video, position = (place // positions).to(tl.int64), place % positions
    f, d = tl.arange(0, FRAMES), tl.arange(0, WIDTH)
    mask = (f[:, None] < frames) & (d[None, :] < DIM)
    token = ((video * frames + f) * positions + position)[:, None]
    within = head * DIM + d[None, :]
    q = tl.load(Queries + token * query_row + within, mask=mask, other=0.0)
    k = tl.load(Keys + token * key_row + within, mask=mask, other=0.0)
    v = tl.load(Values + token * value_row + within, mask=mask, other=0.0)
    if WIDEN:
        q, k, v = q.to(tl.float32), k.to(tl.float32), v.to(tl.float32)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    scores = tl.where(f[None, :] < frames, scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    weights = weights / tl.sum(weights, 1)[:, None]
    out = tl.dot(weights.to(v.dtype), v, input_precision="ieee")
    place_out = Out + token * out_row + within
    tl.store(place_out, out.to(Out.dtype.element_ty), mask=mask)


def temporal_attention(
    queries: Tensor, keys: Tensor, values: Tensor, frames: int, heads: int
) -> Tensor:
    """Attend from (b f, n, c) to the same tokens, see the operator."""
    images, positions, channels = queries.shape
    out = torch.empty(queries.shape, dtype=queries.dtype, device=queries.device)
    dim = channels // heads
    width = max(16, triton.next_power_of_2(dim))
    padded = max(16, triton.next_power_of_2(frames))
    attend_along_frames[(images // frames * positions * heads,)](
        queries, keys, values, out, frames, positions, heads, 1 / math.sqrt(dim),
        queries.stride(1), keys.stride(1), values.stride(1), channels,
        DIM=dim, FRAMES=padded, WIDTH=width,
        WIDEN=knobs.runtime.interpret,  # it multiplies bfloat16 as integers
        num_warps=1 if padded * width <= 1024 else 4,
    )  # fmt: skip
    return out
