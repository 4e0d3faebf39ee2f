"""The loop from noise to latents."""

import torch
from torch import Tensor

from ..errors import NonFiniteLatents
from ..progress import Progress, Report, ignore
from .predictor import Predict
from .steps import Steps


def denoise(
    latents: Tensor, steps: Steps, predict: Predict, report: Report = ignore
) -> Tensor:
    """Run all steps from ``latents`` (b, c, f, h, w).

    Raises NonFiniteLatents with the first step after which a latent was NaN or
    infinite. The verdicts stay on the device until the loop ends, so that no step waits
    for the one before it.
    """
    verdicts: list[Tensor] = []
    for step in range(steps.total):
        noise_pred = predict(steps.model_input(latents, step), step)
        latents = steps.advance(noise_pred, step, latents)
        verdicts.append(latents.isfinite().all())
        report(Progress("denoise", step + 1, steps.total, latents))
    finite = torch.stack(verdicts).cpu()
    if not finite.all():
        raise NonFiniteLatents(int(finite.int().argmin()), "latents")
    return latents
