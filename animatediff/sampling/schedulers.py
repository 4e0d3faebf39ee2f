"""diffusers' schedulers, on the noise schedule of the motion modules."""

import importlib
import inspect
from typing import Any

from ..catalog import NOISE_SCHEDULE, SCHEDULERS


def make_scheduler(name: str, num_inference_steps: int) -> Any:
    """Return the catalog's scheduler ``name``, set to ``num_inference_steps``.

    Its timesteps stay on the CPU. So a step indexes CPU tables with CPU numbers and
    multiplies by CPU scalars, and never waits for the GPU.
    """
    row = SCHEDULERS[name]
    scheduler_class = getattr(importlib.import_module("diffusers"), row.diffusers_class)
    scheduler = scheduler_class(**NOISE_SCHEDULE, **row.kwargs)
    scheduler.set_timesteps(num_inference_steps)
    return scheduler


def draws_noise(scheduler: Any) -> bool:
    """Whether ``scheduler.step`` takes a generator, for the noise that it adds."""
    return "generator" in inspect.signature(scheduler.step).parameters
