"""The loop from noise to latents."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import NonFiniteLatents
from .schedulers import draws_noise

Predict = Callable[[Tensor, int], Tensor]
"""Latents (b, c, f, h, w), scaled for the model, and the step's number from 0 -> the
noise in them.
"""

OnStep = Callable[[int, Tensor], None]
"""Called after step ``i`` (from 0) with the latents. May raise, which ends the loop."""


def denoise(
    latents: Tensor,
    scheduler: Any,
    predict: Predict,
    sources: Sequence[torch.Generator],
    on_step: OnStep | None = None,
) -> Tensor:
    """All steps of ``scheduler`` from ``latents`` (b, c, f, h, w). ``sources``: one
    generator a video.

    Raises NonFiniteLatents with the first step after which a latent was NaN or
    infinite. The step's verdict stays on the device until the loop is over, so that no
    step waits for the one before it.
    """
    extra = {"generator": list(sources)} if draws_noise(scheduler) else {}
    finite = []
    for i, timestep in enumerate(scheduler.timesteps):
        noise_pred = predict(scheduler.scale_model_input(latents, timestep), i)
        latents = scheduler.step(noise_pred, timestep, latents, **extra).prev_sample
        finite.append(latents.isfinite().all())
        if on_step is not None:
            on_step(i, latents)
    verdicts = torch.stack(finite).tolist()
    if not all(verdicts):
        raise NonFiniteLatents(verdicts.index(False), "latents")
    return latents
