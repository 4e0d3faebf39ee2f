"""Classifier-free guidance."""

from torch import Tensor


def needs_unconditional(guidance_scale: float) -> bool:
    """Whether the negative prompt is needed: at 1 and below, the prompt is enough."""
    return guidance_scale > 1


def guide(noise_pred: Tensor, guidance_scale: float) -> Tensor:
    """Combine [unconditional, conditional], (2 b, ...), to (b, ...).

    Source: arXiv 2207.12598, equation 6.
    """
    unconditional, conditional = noise_pred.chunk(2)
    return unconditional + guidance_scale * (conditional - unconditional)
