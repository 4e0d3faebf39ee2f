"""GroupNorm and LayerNorm, with what stands beside them added on the way."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .choice import fused


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    silu: bool = False,
    *,
    across_frames: int = 1,
    added: Tensor | None = None,
) -> Tensor:
    """Normalise (b f, c, h, w) per group of channels; the result is channels_last.

    Source: arXiv 1803.08494. Statistics are per frame, or, with ``across_frames`` = f,
    over all f frames of a video. Motion modules v1 were trained with the latter
    (``use_inflated_groupnorm: false`` in the published config). ``weight``, ``bias``
    and ``added``, which is added to ``x`` first, are (c,). With ``silu``,
    x * sigmoid(x) of the result is returned.
    """
    if fused(x, weight, bias, added):
        x = x.contiguous(memory_format=torch.channels_last)
        return _group_norm(x, groups, weight, bias, eps, silu, across_frames, added)
    if added is not None:
        x = x + added[:, None, None]
    if across_frames > 1:
        videos = torch.unflatten(x, 0, (-1, across_frames))
        x = videos.transpose(1, 2)  # (b, c, f, h, w)
    normalise = _normalise_on_cpu if x.is_cpu else torch.group_norm
    x = normalise(x, groups, weight, bias, eps)
    if across_frames > 1:
        x = x.transpose(1, 2).flatten(0, 1)
    x = x.contiguous(memory_format=torch.channels_last)
    return F.silu(x, inplace=not x.requires_grad) if silu else x


def _normalise_on_cpu(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """Do as torch.group_norm on (n, c, ...), with a variance that keeps its digits.

    torch 2.13's CPU kernel for channels_last has the variance as E[x^2] - E[x]^2, where
    a large mean cancels the digits of a small deviation; its backward pass crashes. The
    kernel for contiguous tensors has neither fault, and costs two copies.
    """
    if torch.is_grad_enabled() or x.dtype in (torch.float16, torch.bfloat16):
        return torch.group_norm(x.contiguous(), groups, weight, bias, eps)
    column = (-1, *(1 for _ in x.shape[2:]))  # (c, 1, 1)
    centred = x - _group_means(x, groups)
    squares = centred.square()
    deviation = (_group_means(squares, groups) + eps).sqrt()
    scale = weight.view(column) / deviation
    return torch.addcmul(bias.view(column), centred, scale, out=squares)


def _group_means(x: Tensor, groups: int) -> Tensor:
    """Average (n, c, ...) over each group and all positions: (n, c, 1, ...)."""
    means = x.mean(tuple(range(2, x.ndim)), keepdim=True)
    grouped = torch.unflatten(means, 1, (groups, -1))
    return grouped.mean(2, keepdim=True).expand_as(grouped).flatten(1, 2)


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, table: Tensor | None = None
) -> Tensor:
    """Normalise the last axis of (b f, n, c), then add ``table``, (f, c), by frame.

    Source: arXiv 1607.06450.
    """
    if fused(x, weight, bias, table):
        return _layer_norm(x.contiguous(), weight, bias, eps, table)
    return _with_table(F.layer_norm(x, x.shape[-1:], weight, bias, eps), table)


def add_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    table: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return x + residual, and ``layer_norm`` of that.

    ``x`` is (k b f, n, c) and ``residual`` (b f, n, c): it is added k times.
    """
    if fused(x, residual, weight, bias, table):
        x, residual = x.contiguous(), residual.contiguous()
        return _add_layer_norm(x, residual, weight, bias, eps, table)
    x = add_repeated(x, residual)
    normed = F.layer_norm(x, x.shape[-1:], weight, bias, eps)
    return x, _with_table(normed, table)


def add_repeated(x: Tensor, residual: Tensor) -> Tensor:
    """Add ``residual``, (b, ...), k times to ``x``, (k b, ...)."""
    if x.shape[0] == residual.shape[0]:
        return x + residual
    return (torch.unflatten(x, 0, (-1, residual.shape[0])) + residual).flatten(0, 1)


def _with_table(x: Tensor, table: Tensor | None) -> Tensor:
    if table is None:
        return x
    frames = torch.unflatten(x, 0, (-1, table.shape[0]))
    return (frames + table[:, None]).flatten(0, 1)


@torch.library.custom_op("animatediff::layer_norm", mutates_args=())
def _layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, table: Tensor | None
) -> Tensor:
    from .gpu import norms

    return norms.layer_norm(x, weight, bias, eps, None, table)[1]


@_layer_norm.register_fake  # pyright: ignore[reportUnknownMemberType]
def _(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, table: Tensor | None
) -> Tensor:
    del weight, bias, eps, table
    return torch.empty_like(x)


@torch.library.custom_op("animatediff::add_layer_norm", mutates_args=())
def _add_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    table: Tensor | None,
) -> tuple[Tensor, Tensor]:
    from .gpu import norms

    return norms.layer_norm(x, weight, bias, eps, residual, table)


@_add_layer_norm.register_fake  # pyright: ignore[reportUnknownMemberType]
def _(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    table: Tensor | None,
) -> tuple[Tensor, Tensor]:
    del residual, weight, bias, eps, table
    return torch.empty_like(x), torch.empty_like(x)


@torch.library.custom_op("animatediff::group_norm", mutates_args=())
def _group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    silu: bool,
    across_frames: int,
    added: Tensor | None,
) -> Tensor:
    from .gpu import norms

    rows = x.permute(0, 2, 3, 1).reshape(x.shape[0] // across_frames, -1, x.shape[1])
    normed = norms.group_norm(rows, groups, weight, bias, eps, silu, added)
    images = normed.view(x.shape[0], *x.shape[2:], x.shape[1])
    return images.permute(0, 3, 1, 2)


@_group_norm.register_fake  # pyright: ignore[reportUnknownMemberType]
def _(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    silu: bool,
    across_frames: int,
    added: Tensor | None,
) -> Tensor:
    del groups, weight, bias, eps, silu, across_frames, added
    n, channels, height, width = x.shape
    return x.new_empty(n, height, width, channels).permute(0, 3, 1, 2)
