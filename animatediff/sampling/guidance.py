"""Classifier-free guidance."""

from torch import Tensor


def guide(noise_pred: Tensor, guidance_scale: float) -> Tensor:
    """Combine [unconditional, conditional], (2 b, ...), to (b, ...).

    Source: arXiv 2207.12598, equation 6.
    """
    unconditional, conditional = noise_pred.chunk(2)
    return unconditional + guidance_scale * (conditional - unconditional)
