"""Schedulers: diffusers' classes, always on the noise schedule that the motion modules
were trained with.
"""

import importlib
import inspect
from typing import Any

from ..catalog import NOISE_SCHEDULE, SCHEDULERS


def make_scheduler(name: str, num_inference_steps: int) -> Any:
    """The catalog's scheduler ``name``, set to ``num_inference_steps``. Its timesteps
    stay on the CPU.

    A step then indexes CPU tables with CPU numbers and multiplies by CPU scalars: the
    GPU is never waited for.
    """
    row = SCHEDULERS[name]
    scheduler = getattr(importlib.import_module("diffusers"), row.diffusers_class)(
        **NOISE_SCHEDULE, **row.kwargs
    )
    scheduler.set_timesteps(num_inference_steps)
    return scheduler


def draws_noise(scheduler: Any) -> bool:
    """Whether ``scheduler.step`` takes a generator, for the noise that it adds."""
    return "generator" in inspect.signature(scheduler.step).parameters
