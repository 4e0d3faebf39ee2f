"""The image models that a job may name."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class FamilyDefaults:
    """What a job of this model family gets for each field that it leaves out."""

    width: int
    height: int
    num_frames: int
    num_inference_steps: int
    guidance_scale: float
    fps: int = 8
    scheduler: str = "ddim"
    format: str = "mp4"


SD15_DEFAULTS = FamilyDefaults(512, 512, 16, 25, 7.5)
SHAPEWORLD_DEFAULTS = FamilyDefaults(64, 64, 16, 25, 4.0)


@dataclass(frozen=True)
class BaseModel:
    """A text-to-image model of SD 1.5's architecture. ``folder`` is its place below the
    models folder.
    """

    folder: str
    title: str
    motion_modules: tuple[str, ...]
    """Motion modules made for this family; the first one that is installed is the
    default.
    """
    defaults: FamilyDefaults = SD15_DEFAULTS
    note: str = ""
    """Said in every output that this model made, when it is not what a user would
    expect.
    """


_SD15_MOTION = (
    "v3_sd15_mm",
    "mm_sd_v15_v2",
    "mm_sd_v15",
    "mm_sd_v14",
    "animatelcm_sd15",
    "lightning_4step",
)

BASE_MODELS: Mapping[
    str, BaseModel
] = {  # the first one that is installed is the default
    "sd15": BaseModel("stable-diffusion-v1-5", "Stable Diffusion 1.5", _SD15_MOTION),
    "shapeworld": BaseModel(
        "shapeworld",
        "shapeworld, the embedded demonstration family",
        ("shapeworld_v3", "shapeworld_v2", "shapeworld_lcm"),
        SHAPEWORLD_DEFAULTS,
        note="made with the embedded demonstration family 'shapeworld' (moving"
        " shapes), not with Stable Diffusion",
    ),
}
