# pyright: basic, reportCallIssue=false, reportArgumentType=false
"""GroupNorm and LayerNorm.

Means and deviations are computed in float32, deviations from the mean: the difference
of E[x^2] and E[x]^2 loses the digits of a small deviation beside a large mean.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

WHOLE_GROUP = 20_480
"""Values of a group, up to which one program reads it twice: it stays in the cache."""
PARTS = 64
"""Parts of a sample, at most, whose statistics are then merged."""


@triton.jit
def _merged(count, mean, squares, new_count, new_mean, new_squares):
    """Merge two sets of values, with sums of squared deviations from their means.

    Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for
    computing sample variances", 1979.
    """
    total = count + new_count
    shift = new_mean - mean
    share = new_count / total
    return (
        total,
        mean + shift * share,
        squares + new_squares + shift * shift * count * share,
    )


@triton.jit
def _read(X, Added, at, c, mask, channels, ADDED: tl.constexpr):
    x = tl.load(X + at, mask=mask, other=0.0).to(tl.float32)
    if ADDED:
        added = tl.load(Added + c, mask=c < channels, other=0.0).to(tl.float32)
        x += added[None, :]
    return x


@triton.jit
def _write(Y, at, y, mask, SILU: tl.constexpr):
    if SILU:
        small = tl.exp(-tl.abs(y))
        y = y * tl.where(y < 0, small, 1.0) / (1 + small)
    tl.store(Y + at, y.to(Y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows", "width"])
def group_norm_whole(
    X, Added, Weight, Bias, Y, rows, channels, width, eps,
    ADDED: tl.constexpr, SILU: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Normalise one group of one sample: X and Y (samples, rows, channels)."""
    group, sample = tl.program_id(0), tl.program_id(1).to(tl.int64)
    i = tl.arange(0, WIDTH)
    c = tl.where(i < width, group * width + i, channels)
    start = sample * rows * channels
    count, mean, squares = 0.0, 0.0, 0.0
    for first in range(0, rows, ROWS):
        r = first + tl.arange(0, ROWS)
        mask = (r[:, None] < rows) & (c[None, :] < channels)
        at = start + r[:, None] * channels + c[None, :]
        x = _read(X, Added, at, c, mask, channels, ADDED)
        size = (tl.minimum(ROWS, rows - first) * width).to(tl.float32)
        here = tl.sum(tl.where(mask, x, 0.0)) / size
        away = tl.where(mask, x - here, 0.0)
        count, mean, squares = _merged(
            count, mean, squares, size, here, tl.sum(away * away)
        )
    scale = tl.load(Weight + c, mask=c < channels, other=0.0).to(tl.float32)
    scale = scale / tl.sqrt(squares / count + eps)
    shift = tl.load(Bias + c, mask=c < channels, other=0.0).to(tl.float32)
    for first in range(0, rows, ROWS):
        r = first + tl.arange(0, ROWS)
        mask = (r[:, None] < rows) & (c[None, :] < channels)
        at = start + r[:, None] * channels + c[None, :]
        x = _read(X, Added, at, c, mask, channels, ADDED)
        _write(Y, at, (x - mean) * scale[None, :] + shift[None, :], mask, SILU)


@triton.jit(do_not_specialize=["rows", "part_rows", "parts"])
def group_norm_parts(
    X, Added, Parts, rows, channels, part_rows, parts,
    ADDED: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Mean and squared deviations by channel of ``part_rows`` rows of one sample.

    X (samples, rows, channels), Parts (samples, parts, 2, channels).
    """
    part, sample = tl.program_id(0), tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    start, first_row = sample * rows * channels, part * part_rows
    last_row = tl.minimum(first_row + part_rows, rows)
    count = 0.0
    mean, squares = tl.zeros((WIDTH,), tl.float32), tl.zeros((WIDTH,), tl.float32)
    for first in range(first_row, last_row, ROWS):
        r = first + tl.arange(0, ROWS)
        mask = (r[:, None] < last_row) & (c[None, :] < channels)
        at = start + r[:, None] * channels + c[None, :]
        x = _read(X, Added, at, c, mask, channels, ADDED)
        size = tl.minimum(ROWS, last_row - first).to(tl.float32)
        here = tl.sum(tl.where(mask, x, 0.0), 0) / size
        away = tl.where(mask, x - here[None, :], 0.0)
        count, mean, squares = _merged(
            count, mean, squares, size, here, tl.sum(away * away, 0)
        )
    out = Parts + (sample * parts + part) * 2 * channels + c
    tl.store(out, mean, mask=c < channels)
    tl.store(out + channels, squares, mask=c < channels)


@triton.jit(do_not_specialize=["rows", "part_rows", "parts", "width"])
def group_norm_fold(
    Parts, Weight, Folded, rows, channels, part_rows, parts, width, eps,
    PARTS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Merge the parts of a group: mean and scale by channel.

    Parts (samples, parts, 2, channels), Folded (samples, 2, channels).
    """
    group, sample = tl.program_id(0), tl.program_id(1).to(tl.int64)
    i, k = tl.arange(0, WIDTH), tl.arange(0, PARTS)
    c = group * width + i
    mask = (k[:, None] < parts) & (i[None, :] < width)
    at = Parts + (sample * parts + k[:, None]) * 2 * channels + c[None, :]
    means = tl.load(at, mask=mask, other=0.0)
    squares = tl.load(at + channels, mask=mask, other=0.0)
    size = tl.maximum(tl.minimum(rows - k * part_rows, part_rows), 0).to(tl.float32)
    total = (rows * width).to(tl.float32)
    about = tl.load(Parts + sample * parts * 2 * channels + group * width)
    away = tl.where(mask, means - about, 0.0)
    mean = about + tl.sum(away * size[:, None]) / total
    away = tl.where(mask, means - mean, 0.0)
    variance = tl.sum(squares + away * away * size[:, None]) / total
    scale = tl.load(Weight + c, mask=i < width, other=0.0).to(tl.float32)
    scale = scale / tl.sqrt(variance + eps)
    out = Folded + sample * 2 * channels + c
    tl.store(out, tl.zeros((WIDTH,), tl.float32) + mean, mask=i < width)
    tl.store(out + channels, scale, mask=i < width)


@triton.jit(do_not_specialize=["rows"])
def group_norm_apply(
    X, Added, Folded, Bias, Y, rows, channels,
    ADDED: tl.constexpr, SILU: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Normalise X with ``group_norm_fold``'s result: Y (samples, rows, channels)."""
    sample = tl.program_id(2).to(tl.int64)
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    mask = (r[:, None] < rows) & (c[None, :] < channels)
    at = sample * rows * channels + r[:, None] * channels + c[None, :]
    x = _read(X, Added, at, c, mask, channels, ADDED)
    folded = Folded + sample * 2 * channels + c
    mean = tl.load(folded, mask=c < channels, other=0.0)
    scale = tl.load(folded + channels, mask=c < channels, other=0.0)
    shift = tl.load(Bias + c, mask=c < channels, other=0.0).to(tl.float32)
    y = (x - mean[None, :]) * scale[None, :] + shift[None, :]
    _write(Y, at, y, mask, SILU)


def is_whole(rows: int, width: int) -> bool:
    """Whether one program normalises a group of ``rows`` x ``width`` values."""
    return rows * width <= WHOLE_GROUP


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    silu: bool,
    added: Tensor | None,
) -> Tensor:
    """Normalise (samples, rows, channels), contiguous, see the operator."""
    samples, rows, channels = x.shape
    y = torch.empty_like(x)
    width = channels // groups
    flags = {"ADDED": added is not None, "SILU": silu}
    row = bias if added is None else added  # a pointer is needed in any case
    padded = max(16, triton.next_power_of_2(width))
    if is_whole(rows, width):
        group_norm_whole[(groups, samples)](
            x, row, weight, bias, y, rows, channels, width, eps,
            **flags, ROWS=2048 // padded, WIDTH=padded, num_warps=4,
        )  # fmt: skip
        return y
    block = 128 if channels % 128 == 0 else 64
    tile = 4096 // block
    part_rows = max(64, triton.cdiv(rows, PARTS))
    parts, blocks = triton.cdiv(rows, part_rows), triton.cdiv(channels, block)
    merged = x.new_empty(samples, parts, 2, channels, dtype=torch.float32)
    folded = x.new_empty(samples, 2, channels, dtype=torch.float32)
    group_norm_parts[(parts, blocks, samples)](
        x, row, merged, rows, channels, part_rows, parts,
        ADDED=added is not None, ROWS=tile, WIDTH=block, num_warps=4,
    )  # fmt: skip
    group_norm_fold[(groups, samples)](
        merged, weight, folded, rows, channels, part_rows, parts, width, eps,
        PARTS=PARTS, WIDTH=padded, num_warps=4,
    )  # fmt: skip
    group_norm_apply[(triton.cdiv(rows, tile), blocks, samples)](
        x, row, folded, bias, y, rows, channels,
        **flags, ROWS=tile, WIDTH=block, num_warps=4,
    )  # fmt: skip
    return y


@triton.jit(do_not_specialize=["rows", "other_rows", "frames", "positions"])
def layer_norm_rows(
    X, Other, Table, Weight, Bias, Sum, Y,
    rows, other_rows, channels, frames, positions, eps,
    OTHER: tl.constexpr, TABLE: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Normalise the rows of X, plus those of Other; then add rows of Table."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, WIDTH)
    mask = (r[:, None] < rows) & (c[None, :] < channels)
    at = r[:, None].to(tl.int64) * channels + c[None, :]
    x = tl.load(X + at, mask=mask, other=0.0).to(tl.float32)
    if OTHER:
        there = (r % other_rows)[:, None].to(tl.int64) * channels + c[None, :]
        x += tl.load(Other + there, mask=mask, other=0.0).to(tl.float32)
        total = x.to(Sum.dtype.element_ty)
        tl.store(Sum + at, total, mask=mask)
        x = total.to(tl.float32)
    mean = tl.sum(x, 1) / channels
    away = tl.where(mask, x - mean[:, None], 0.0)
    scale = 1 / tl.sqrt(tl.sum(away * away, 1) / channels + eps)
    weight = tl.load(Weight + c, mask=c < channels, other=0.0).to(tl.float32)
    bias = tl.load(Bias + c, mask=c < channels, other=0.0).to(tl.float32)
    y = away * scale[:, None] * weight[None, :] + bias[None, :]
    if TABLE:
        frame = (r // positions) % frames
        row = Table + frame[:, None] * channels + c[None, :]
        y += tl.load(row, mask=mask, other=0.0).to(tl.float32)
    tl.store(Y + at, y.to(Y.dtype.element_ty), mask=mask)


def layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    other: Tensor | None,
    table: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Normalise (images, positions, channels), contiguous, see the operator."""
    _, positions, channels = x.shape
    rows = x.shape[0] * positions
    y = torch.empty_like(x)
    total = x.new_empty(0) if other is None else torch.empty_like(x)
    width = max(16, triton.next_power_of_2(channels))
    block = max(1, 2048 // width)
    layer_norm_rows[(triton.cdiv(rows, block),)](
        x, x if other is None else other, weight if table is None else table,
        weight, bias, y if other is None else total, y,
        rows, rows if other is None else other.numel() // channels, channels,
        1 if table is None else table.shape[0], positions, eps,
        OTHER=other is not None, TABLE=table is not None, ROWS=block, WIDTH=width,
        num_warps=4,
    )  # fmt: skip
    return total, y
