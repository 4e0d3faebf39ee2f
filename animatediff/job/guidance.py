"""Whether there is guidance: the one rule for warnings, memory and sampling."""


def needs_unconditional(guidance_scale: float) -> bool:
    """Whether the negative prompt is needed: at 1 and below, the prompt is enough.

    Source: arXiv 2207.12598.
    """
    return guidance_scale > 1
