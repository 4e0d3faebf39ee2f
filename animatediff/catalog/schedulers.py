"""The samplers, and the noise schedule that they share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Scheduler:
    """A diffusers scheduler class by name, with what it gets besides the motion
    module's own noise schedule.
    """

    diffusers_class: str
    title: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    max_steps: int = 150


NOISE_SCHEDULE: Mapping[str, Any] = {
    # The motion modules were trained on this schedule, which is not SD 1.5's
    # "scaled_linear". Source: noise_scheduler_kwargs of the published inference
    # configs.
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "steps_offset": 1,
    "prediction_type": "epsilon",
}

SCHEDULERS: Mapping[str, Scheduler] = {
    "ddim": Scheduler(
        "DDIMScheduler",
        "DDIM, the published default",
        {"clip_sample": False, "set_alpha_to_one": True},
    ),
    "euler": Scheduler(
        "EulerDiscreteScheduler", "Euler", {"timestep_spacing": "linspace"}
    ),
    "euler_a": Scheduler(
        "EulerAncestralDiscreteScheduler",
        "Euler ancestral",
        {"timestep_spacing": "linspace"},
    ),
    "euler_trailing": Scheduler(
        "EulerDiscreteScheduler",
        "Euler, trailing timesteps (AnimateDiff-Lightning)",
        {"timestep_spacing": "trailing"},
    ),
    "dpmpp_2m": Scheduler(
        "DPMSolverMultistepScheduler",
        "DPM-Solver++ 2M",
        {"timestep_spacing": "linspace"},
    ),
    "dpmpp_2m_karras": Scheduler(
        "DPMSolverMultistepScheduler",
        "DPM-Solver++ 2M, Karras sigmas",
        {"use_karras_sigmas": True},
    ),
    "unipc": Scheduler(
        "UniPCMultistepScheduler", "UniPC", {"timestep_spacing": "linspace"}
    ),
    "pndm": Scheduler("PNDMScheduler", "PNDM/PLMS", {"skip_prk_steps": True}),
    "lcm": Scheduler(
        "LCMScheduler",
        "LCM (AnimateLCM and other consistency models)",
        {"clip_sample": False},
        50,
    ),
}
