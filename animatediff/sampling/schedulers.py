"""diffusers' schedulers, on the noise schedule of the motion modules."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from ..catalog import SCHEDULERS
from ..errors import InvalidRequest


def make_scheduler(
    name: str, num_inference_steps: int, noise_schedule: Mapping[str, Any]
) -> Any:
    """Return the catalog's scheduler ``name``, set to ``num_inference_steps``.

    ``noise_schedule`` is that of the image model; if it has a spacing of timesteps,
    that comes before the catalog's. The scheduler's timesteps stay on the CPU. So a
    step indexes CPU tables with CPU numbers and multiplies by CPU scalars, and never
    waits for the GPU.

    Raises InvalidRequest for a scheduler that cannot sample this noise schedule.
    """
    if not _can_sample(name, noise_schedule):
        others = (other for other in SCHEDULERS if _can_sample(other, noise_schedule))
        allowed = f"one of {', '.join(others)}, by the image model's noise schedule"
        raise InvalidRequest("scheduler", name, allowed)
    scheduler = _class(name)(**{**SCHEDULERS[name].kwargs, **noise_schedule})
    scheduler.set_timesteps(num_inference_steps)
    return scheduler


def _can_sample(name: str, noise_schedule: Mapping[str, Any]) -> bool:
    parameters = inspect.signature(_class(name).__init__).parameters
    return noise_schedule.keys() <= parameters.keys()


def _class(name: str) -> Any:
    row = SCHEDULERS[name]
    return getattr(importlib.import_module(row.module), row.class_name)


def draws_noise(scheduler: Any) -> bool:
    """Whether ``scheduler.step`` takes a generator, for the noise that it adds."""
    return "generator" in inspect.signature(scheduler.step).parameters
