"""What runs on each number by itself: the gate, and biases with residuals."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .choice import fused


def geglu(x: Tensor) -> Tensor:
    """Map (..., 2 n) to (..., n): the first half times gelu of the second.

    Source: arXiv 2002.05202.
    """
    if fused(x):
        return _geglu(x.contiguous())
    hidden, gate = x.chunk(2, dim=-1)
    gate = F.gelu(gate)
    return hidden * gate if gate.requires_grad else gate.mul_(hidden)


def conv_residual(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor
) -> Tensor:
    """Convolve (n, c_in, h, w) with an odd kernel, and add bias and residual.

    cuDNN's convolutions run a kernel of its own for the bias, so that it costs no more
    to add the residual on the way. All images are channels_last.
    """
    padding = weight.shape[-1] // 2
    if bias is None or not fused(x, weight, bias, residual):
        return F.conv2d(x, weight, bias, padding=padding) + residual
    hidden = F.conv2d(x, weight, padding=padding)
    layout = torch.channels_last
    hidden = hidden.contiguous(memory_format=layout)
    return _add_bias(hidden, bias, residual.contiguous(memory_format=layout))


def conv_for_norm(
    x: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Convolve (n, c_in, h, w) with an odd kernel, in front of a GroupNorm.

    Returns the images and what the norm has yet to add, (c): the bias, or None.
    """
    padding = weight.shape[-1] // 2
    if fused(x, weight, bias):
        return F.conv2d(x, weight, padding=padding), bias
    return F.conv2d(x, weight, bias, padding=padding), None


@torch.library.custom_op("animatediff::geglu", mutates_args=())
def _geglu(x: Tensor) -> Tensor:
    from .gpu import elementwise

    return elementwise.geglu(x)


@_geglu.register_fake  # pyright: ignore[reportUnknownMemberType]
def _(x: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], x.shape[-1] // 2)


@torch.library.custom_op("animatediff::add_bias", mutates_args=())
def _add_bias(x: Tensor, bias: Tensor, other: Tensor) -> Tensor:
    from .gpu import elementwise

    return elementwise.add_bias(x, bias, other)


@_add_bias.register_fake  # pyright: ignore[reportUnknownMemberType]
def _(x: Tensor, bias: Tensor, other: Tensor) -> Tensor:
    del bias, other
    return torch.empty_like(x)
