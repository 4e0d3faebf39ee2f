"""GroupNorm and LayerNorm, with what stands beside them added on the way."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .choice import fused


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
    return (x.unflatten(0, (-1, residual.shape[0])) + residual).flatten(0, 1)


def _with_table(x: Tensor, table: Tensor | None) -> Tensor:
    if table is None:
        return x
    return (x.unflatten(0, (-1, table.shape[0])) + table[:, None]).flatten(0, 1)


@torch.library.custom_op("animatediff::layer_norm", mutates_args=())
def _layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, table: Tensor | None
) -> Tensor:
    from .gpu import norms

    return norms.layer_norm(x, weight, bias, eps, None, table)[1]


@_layer_norm.register_fake
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


@_add_layer_norm.register_fake
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
def fused_group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    silu: bool,
    across_frames: int,
    added: Tensor | None,
) -> Tensor:
    """Run the kernel on (b f, c, h, w), channels_last."""
    from .gpu import norms

    rows = x.permute(0, 2, 3, 1).reshape(x.shape[0] // across_frames, -1, x.shape[1])
    normed = norms.group_norm(rows, groups, weight, bias, eps, silu, added)
    images = normed.view(x.shape[0], *x.shape[2:], x.shape[1])
    return images.permute(0, 3, 1, 2)


@fused_group_norm.register_fake
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
