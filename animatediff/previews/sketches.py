"""Latents to pictures by a linear map: one product, and no weights to load."""

from typing import Protocol

import torch
from torch import Tensor

from ..families.base import PreviewFactors
from ..transfers import send


class Sketch(Protocol):
    """Turns latents into small pictures, on their device and without a wait."""

    def __call__(self, latents: Tensor, /) -> Tensor:
        """Turn latents (c, f, h, w) into pictures (f, H, W, 3), uint8."""
        ...


class LinearSketch:
    """Shows each latent as one pixel, by the ``factors`` of the VAE."""

    def __init__(self, factors: PreviewFactors, device: torch.device) -> None:
        self.factors = factors
        self._rows = send(torch.tensor(factors.rows), device)
        self._bias = send(torch.tensor(factors.bias), device)

    def __call__(self, latents: Tensor, /) -> Tensor:
        """Turn latents (c, f, h, w) into pictures (f, h, w, 3), uint8."""
        calm = calmed(latents, self.factors.spread)
        return bytes_of(torch.einsum("cfhw,cr->fhwr", calm, self._rows) + self._bias)


def calmed(latents: Tensor, spread: float) -> Tensor:
    """Return latents in float32 that vary no more than finished ones do.

    Between two steps they hold noise. For some schedulers it is 15 times as large as
    the picture, and would show as black and white.
    """
    latents = latents.float()
    return latents / (latents.std() / spread).clamp(min=1)


def bytes_of(pixels: Tensor) -> Tensor:
    """Return values 0..1 as bytes; others are clamped."""
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
