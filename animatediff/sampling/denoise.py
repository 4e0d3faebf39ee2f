"""The loop from noise to latents."""

import torch
from torch import Tensor

from ..errors import NonFiniteLatents
from ..previews import Previews
from ..progress import Progress, Report, ignore
from ..transfers import FinishedWork
from .predictor import Predict
from .steps import Steps


def denoise(
    latents: Tensor,
    steps: Steps,
    predict: Predict,
    report: Report = ignore,
    previews: Previews | None = None,
) -> Tensor:
    """Run all steps from ``latents`` (b, c, f, h, w).

    ``report`` is called once the device has finished a step; if it raises, a GPU has
    begun one step more at most. ``previews`` adds pictures of what a step foresees to
    some of the reports.

    Raises NonFiniteLatents with the first step after which a latent was NaN or
    infinite. The verdicts stay on the device until the loop ends, so that the device
    always has the next step's work when it ends one.
    """
    verdicts: list[Tensor] = []
    work, frames = FinishedWork(latents.device, report), range(latents.shape[2])
    for step in range(steps.total):
        sample = steps.model_input(latents, step)
        noise_pred = predict(sample, step, frames)
        latents = steps.advance(noise_pred, step, latents)
        verdicts.append(latents.isfinite().all())
        done = Progress("denoise", step + 1, steps.total, latents)
        arriving = None
        if previews is not None and previews.are_due(done):
            foreseen = steps.foreseen(noise_pred, step, sample)
            done, arriving = previews.added(done, foreseen)
        work.launched(done, arriving)
    work.wait()
    finite = torch.stack(verdicts).cpu()
    if not finite.all():
        raise NonFiniteLatents(int(finite.int().argmin()), "latents")
    return latents
