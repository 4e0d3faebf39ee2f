"""diffusers' schedulers, on the noise schedule of the motion modules."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from ..catalog import SCHEDULERS


def make_scheduler(
    name: str, num_inference_steps: int, noise_schedule: Mapping[str, Any]
) -> Any:
    """Return the catalog's scheduler ``name``, set to ``num_inference_steps``.

    ``noise_schedule`` is the family's. The scheduler's timesteps stay on the CPU. So a
    step indexes CPU tables with CPU numbers and multiplies by CPU scalars, and never
    waits for the GPU.
    """
    row = SCHEDULERS[name]
    scheduler_class = getattr(importlib.import_module("diffusers"), row.diffusers_class)
    scheduler = scheduler_class(**noise_schedule, **row.kwargs)
    scheduler.set_timesteps(num_inference_steps)
    return scheduler


def draws_noise(scheduler: Any) -> bool:
    """Whether ``scheduler.step`` takes a generator, for the noise that it adds."""
    return "generator" in inspect.signature(scheduler.step).parameters
