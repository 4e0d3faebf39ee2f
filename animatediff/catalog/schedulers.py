"""The samplers that a job may name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Scheduler:
    """A scheduler class by name.

    ``kwargs`` are its arguments besides the family's noise schedule. ``module`` is
    another one than diffusers where diffusers' class makes the host wait for a GPU.
    """

    class_name: str
    title: str
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    max_steps: int = 150
    module: str = "diffusers"


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
        "UniPC",
        "UniPC",
        {"timestep_spacing": "linspace"},
        module="animatediff.sampling.unipc",
    ),
    "pndm": Scheduler("PNDMScheduler", "PNDM/PLMS", {"skip_prk_steps": True}),
    "lcm": Scheduler(
        "LCMScheduler",
        "LCM (AnimateLCM and other consistency models)",
        {"clip_sample": False},
        50,
    ),
}
