"""The motion modules that a job may name, and their architectures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..config import ANIMATELCM, V1, V2, V3, MotionModuleConfig
from .files import PUBLISHED_FILES


@dataclass(frozen=True)
class MotionModule:
    """Motion-module weights. ``file`` is its place below the models folder, ``version``
    its architecture.
    """

    file: str
    version: str
    title: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What it was distilled for, where that is not the family's defaults."""


MOTION_MODULE_VERSIONS: Mapping[str, MotionModuleConfig] = {
    "v1": V1,
    "v2": V2,
    "v3": V3,
    "animatelcm": ANIMATELCM,
}

MOTION_MODULES: Mapping[str, MotionModule] = {
    "v3_sd15_mm": MotionModule(
        "motion_modules/v3_sd15_mm.ckpt", "v3", "AnimateDiff v3"
    ),
    "mm_sd_v15_v2": MotionModule(
        "motion_modules/mm_sd_v15_v2.ckpt", "v2", "AnimateDiff v2"
    ),
    "mm_sd_v15": MotionModule(
        "motion_modules/mm_sd_v15.ckpt", "v1", "AnimateDiff v1, trained on SD 1.5"
    ),
    "mm_sd_v14": MotionModule(
        "motion_modules/mm_sd_v14.ckpt", "v1", "AnimateDiff v1, trained on SD 1.4"
    ),
    "animatelcm_sd15": MotionModule(
        "motion_modules/AnimateLCM_sd15_t2v.ckpt",
        "animatelcm",
        "AnimateLCM, 4 to 8 steps",
        {"scheduler": "lcm", "num_inference_steps": 6, "guidance_scale": 1.5},
    ),
    "lightning_4step": MotionModule(
        "motion_modules/animatediff_lightning_4step_diffusers.safetensors",
        "v2",
        "AnimateDiff-Lightning, 4 steps",
        {
            "scheduler": "euler_trailing",
            "num_inference_steps": 4,
            "guidance_scale": 1.0,
        },
    ),
    "shapeworld_v3": MotionModule(
        "shapeworld/motion_module_v3.safetensors", "v3", "the embedded family's module"
    ),
    "shapeworld_v2": MotionModule(
        "shapeworld/motion_module_v2.safetensors",
        "v2",
        "the embedded family's, v2's shape",
    ),
    "shapeworld_lcm": MotionModule(
        "shapeworld/motion_module_lcm.safetensors",
        "v3",
        "the embedded family's, 4 to 8 steps",
        {"scheduler": "lcm", "num_inference_steps": 8, "guidance_scale": 1.0},
    ),
}


def max_frames(motion_module: str) -> int:
    """The most frames that the named motion module's positional table covers."""
    return MOTION_MODULE_VERSIONS[MOTION_MODULES[motion_module].version].max_length


def motion_module_version(motion_module: str) -> str | None:
    """The architecture of a motion module, by its name here or by a published file's
    name; None if neither knows.
    """
    if motion_module in MOTION_MODULES:
        return MOTION_MODULES[motion_module].version
    name = motion_module.rpartition("/")[2]
    rows = (
        row
        for row in MOTION_MODULES.values()
        if row.file.rpartition("/")[2] == name and name in PUBLISHED_FILES
    )
    return next((row.version for row in rows), None)
