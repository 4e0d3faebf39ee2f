# pyright: basic, reportCallIssue=false, reportArgumentType=false
"""The gate of the feed-forward layers, and a bias with a residual."""

import torch
import triton
import triton.language as tl
from torch import Tensor

HALF_ROOT: tl.constexpr = tl.constexpr(0.7071067811865476)


@triton.jit(do_not_specialize=["rows"])
def geglu_rows(X, Y, rows, width, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """X (rows, 2 width) to Y (rows, width)."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)[None, :]
    mask = (r < rows) & (c < width)
    at = r.to(tl.int64) * width
    value = tl.load(X + 2 * at + c, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(X + 2 * at + width + c, mask=mask, other=0.0).to(tl.float32)
    y = value * 0.5 * gate * (1 + tl.erf(gate * HALF_ROOT))
    tl.store(Y + at + c, y.to(Y.dtype.element_ty), mask=mask)


def geglu(x: Tensor) -> Tensor:
    """Map (..., 2 n), contiguous, to (..., n), see the operator."""
    width = x.shape[-1] // 2
    rows = x.numel() // x.shape[-1]
    y = x.new_empty(*x.shape[:-1], width)
    geglu_rows[(triton.cdiv(rows, 4), triton.cdiv(width, 256))](
        x, y, rows, width, ROWS=4, WIDTH=256, num_warps=4
    )
    return y


@triton.jit(do_not_specialize=["rows"])
def add_rows(
    X, Bias, Other, Y, rows, channels, ROWS: tl.constexpr, WIDTH: tl.constexpr
):
    """Y = X + Bias + Other, all (rows, channels) but Bias, (channels)."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    mask = (r < rows) & (c[None, :] < channels)
    at = r.to(tl.int64) * channels + c[None, :]
    y = tl.load(X + at, mask=mask, other=0.0).to(tl.float32)
    y += tl.load(Bias + c, mask=c < channels, other=0.0).to(tl.float32)[None, :]
    y += tl.load(Other + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(Y + at, y.to(Y.dtype.element_ty), mask=mask)


def add_bias(x: Tensor, bias: Tensor, other: Tensor) -> Tensor:
    """Add a bias and an image to an image, channels_last, see the operator."""
    channels = x.shape[1]
    rows = x.numel() // channels
    y = torch.empty_like(x)
    block = 128 if channels % 128 == 0 else 64
    tile = 2048 // block
    add_rows[(triton.cdiv(rows, tile), triton.cdiv(channels, block))](
        x, bias, other, y, rows, channels, ROWS=tile, WIDTH=block, num_warps=4
    )
    return y
