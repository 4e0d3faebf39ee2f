"""Classifier-free guidance."""

from torch import Tensor


def needs_unconditional(guidance_scale: float) -> bool:
    """At 1 and below the prompt's own prediction is the answer, so the other one is not
    computed at all.
    """
    return guidance_scale > 1


def guide(noise_pred: Tensor, guidance_scale: float) -> Tensor:
    """arXiv 2207.12598, equation 6. ``noise_pred`` is [unconditional, conditional]: (2
    b, ...) -> (b, ...)
    """
    unconditional, conditional = noise_pred.chunk(2)
    return unconditional + guidance_scale * (conditional - unconditional)
