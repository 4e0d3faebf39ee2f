"""The tables of everything that can be named in a job. Data only: no torch, no I/O, no behaviour.

To add a scheduler, a model or a format, add a row here. Code that acts on a row lives in the room of its kind and is
keyed by the row's name; ``tests/test_catalog.py`` holds the two sets of keys equal.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .config import ANIMATELCM, V1, V2, V3, MotionModuleConfig


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
    """A text-to-image model of SD 1.5's architecture. ``folder`` is its place below the models folder."""

    folder: str
    title: str
    motion_modules: tuple[str, ...]
    """Motion modules made for this family; the first one that is installed is the default."""
    defaults: FamilyDefaults = SD15_DEFAULTS
    note: str = ""
    """Said in every output that this model made, when it is not what a user would expect."""


@dataclass(frozen=True)
class MotionModule:
    """Motion-module weights. ``file`` is its place below the models folder, ``version`` its architecture."""

    file: str
    version: str
    title: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What it was distilled for, where that is not the family's defaults."""


@dataclass(frozen=True)
class PublishedFile:
    """A weight file that jobs and configs may name by its name alone.

    ``repo`` is its place on the Hugging Face hub. ``folders``, below the models folder, are where it is looked for
    first: ours, and the one of the published code's users. ``bytes``, where known, is its size.
    """

    repo: str
    folders: tuple[str, ...]
    bytes: int | None = None


@dataclass(frozen=True)
class Scheduler:
    """A diffusers scheduler class by name, with what it gets besides the motion module's own noise schedule."""

    diffusers_class: str
    title: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    max_steps: int = 150


@dataclass(frozen=True)
class OutputFormat:
    """A file format. ``max_fps``: the fastest rate that the format can tell apart."""

    mime: str
    suffix: str
    bytes_per_pixel: float
    """Of a detailed clip, for an estimate before the work."""
    max_fps: int = 60


MOTION_MODULE_VERSIONS: Mapping[str, MotionModuleConfig] = {"v1": V1, "v2": V2, "v3": V3, "animatelcm": ANIMATELCM}

MOTION_MODULES: Mapping[str, MotionModule] = {
    "v3_sd15_mm": MotionModule("motion_modules/v3_sd15_mm.ckpt", "v3", "AnimateDiff v3"),
    "mm_sd_v15_v2": MotionModule("motion_modules/mm_sd_v15_v2.ckpt", "v2", "AnimateDiff v2"),
    "mm_sd_v15": MotionModule("motion_modules/mm_sd_v15.ckpt", "v1", "AnimateDiff v1, trained on SD 1.5"),
    "mm_sd_v14": MotionModule("motion_modules/mm_sd_v14.ckpt", "v1", "AnimateDiff v1, trained on SD 1.4"),
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
        {"scheduler": "euler_trailing", "num_inference_steps": 4, "guidance_scale": 1.0},
    ),
    "shapeworld_v3": MotionModule("shapeworld/motion_module_v3.safetensors", "v3", "the embedded family's module"),
    "shapeworld_v2": MotionModule("shapeworld/motion_module_v2.safetensors", "v2", "the embedded family's, v2's shape"),
    "shapeworld_lcm": MotionModule(
        "shapeworld/motion_module_lcm.safetensors",
        "v3",
        "the embedded family's, 4 to 8 steps",
        {"scheduler": "lcm", "num_inference_steps": 8, "guidance_scale": 1.0},
    ),
}

_SD15_MOTION = ("v3_sd15_mm", "mm_sd_v15_v2", "mm_sd_v15", "mm_sd_v14", "animatelcm_sd15", "lightning_4step")

BASE_MODELS: Mapping[str, BaseModel] = {  # the first one that is installed is the default
    "sd15": BaseModel("stable-diffusion-v1-5", "Stable Diffusion 1.5", _SD15_MOTION),
    "shapeworld": BaseModel(
        "shapeworld",
        "shapeworld, the embedded demonstration family",
        ("shapeworld_v3", "shapeworld_v2", "shapeworld_lcm"),
        SHAPEWORLD_DEFAULTS,
        note="made with the embedded demonstration family 'shapeworld' (moving shapes), not with Stable Diffusion",
    ),
}

_V1_V3_FILES = ("v3_sd15_mm.ckpt", "mm_sd_v15.ckpt", "mm_sd_v14.ckpt")
_CAMERA_MOVES = (
    *("ZoomIn", "ZoomOut", "PanLeft", "PanRight", "TiltUp", "TiltDown"),
    *("RollingClockwise", "RollingAnticlockwise"),
)
_DREAMBOOTH_MODELS = (
    *("realisticVisionV60B1_v51VAE", "majicmixRealistic_v4", "majicmixRealistic_v5Preview", "toonyou_beta3"),
    *("rcnzCartoon3d_v10", "lyriel_v16", "leosamsHelloworldXL_filmGrain20"),
)
_LORA_MODELS = ("leosamsFilmgirlUltra_velvia20Lora", "TUSUN")
_ANIMATEDIFF = "guoyww/animatediff"
_T2I = "guoyww/animatediff_t2i_backups"
_MOTION_MODULE = ("motion_modules", "Motion_Module")
_MOTION_LORA = ("motion_lora", "MotionLoRA")
_SPARSECTRL = ("sparsectrl", "SparseCtrl")
_DREAMBOOTH = ("dreambooth", "DreamBooth_LoRA")
_LORA = ("loras", "DreamBooth_LoRA")

PUBLISHED_FILES: Mapping[str, PublishedFile] = {
    # Sizes are counted from the architecture in float32 (tests/data/keys), which is the files but for their headers.
    **{name: PublishedFile(_ANIMATEDIFF, _MOTION_MODULE, 1_668_550_400) for name in _V1_V3_FILES},
    "mm_sd_v15_v2.ckpt": PublishedFile(_ANIMATEDIFF, _MOTION_MODULE, 1_812_837_120),
    "v3_sd15_adapter.ckpt": PublishedFile(_ANIMATEDIFF, ("loras", "Motion_Module"), 102_039_552),
    **{f"v2_lora_{move}.ckpt": PublishedFile(_ANIMATEDIFF, _MOTION_LORA, 77_332_480) for move in _CAMERA_MOVES},
    "v3_sd15_sparsectrl_rgb.ckpt": PublishedFile(_ANIMATEDIFF, _SPARSECTRL, 1_986_923_520),
    "v3_sd15_sparsectrl_scribble.ckpt": PublishedFile(_ANIMATEDIFF, _SPARSECTRL, 1_991_211_136),
    "AnimateLCM_sd15_t2v.ckpt": PublishedFile("wangfuyun/AnimateLCM", _MOTION_MODULE, 1_812_837_120),
    "animatediff_lightning_4step_diffusers.safetensors": PublishedFile(
        "ByteDance/AnimateDiff-Lightning", _MOTION_MODULE
    ),
    **{f"{name}.safetensors": PublishedFile(_T2I, _DREAMBOOTH) for name in _DREAMBOOTH_MODELS},
    **{f"{name}.safetensors": PublishedFile(_T2I, _LORA) for name in _LORA_MODELS},
}

NOISE_SCHEDULE: Mapping[str, Any] = {
    # The motion modules were trained on this schedule, which is not SD 1.5's "scaled_linear".
    # Source: noise_scheduler_kwargs of the published inference configs.
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "steps_offset": 1,
    "prediction_type": "epsilon",
}

SCHEDULERS: Mapping[str, Scheduler] = {
    "ddim": Scheduler("DDIMScheduler", "DDIM, the published default", {"clip_sample": False, "set_alpha_to_one": True}),
    "euler": Scheduler("EulerDiscreteScheduler", "Euler", {"timestep_spacing": "linspace"}),
    "euler_a": Scheduler("EulerAncestralDiscreteScheduler", "Euler ancestral", {"timestep_spacing": "linspace"}),
    "euler_trailing": Scheduler(
        "EulerDiscreteScheduler", "Euler, trailing timesteps (AnimateDiff-Lightning)", {"timestep_spacing": "trailing"}
    ),
    "dpmpp_2m": Scheduler("DPMSolverMultistepScheduler", "DPM-Solver++ 2M", {"timestep_spacing": "linspace"}),
    "dpmpp_2m_karras": Scheduler(
        "DPMSolverMultistepScheduler", "DPM-Solver++ 2M, Karras sigmas", {"use_karras_sigmas": True}
    ),
    "unipc": Scheduler("UniPCMultistepScheduler", "UniPC", {"timestep_spacing": "linspace"}),
    "pndm": Scheduler("PNDMScheduler", "PNDM/PLMS", {"skip_prk_steps": True}),
    "lcm": Scheduler("LCMScheduler", "LCM (AnimateLCM and other consistency models)", {"clip_sample": False}, 50),
}

OUTPUT_FORMATS: Mapping[str, OutputFormat] = {
    "mp4": OutputFormat("video/mp4", ".mp4", 0.2),
    # GIF's delays are whole 1/100 s, and players slow down below 2.
    "gif": OutputFormat("image/gif", ".gif", 1.0, max_fps=50),
    "webm": OutputFormat("video/webm", ".webm", 0.2),
    "webp": OutputFormat("image/webp", ".webp", 0.4),
    "apng": OutputFormat("image/apng", ".apng", 2.5),
    "png_zip": OutputFormat("application/zip", ".zip", 2.5),
}


def max_frames(motion_module: str) -> int:
    """The most frames that the named motion module's positional table covers."""
    return MOTION_MODULE_VERSIONS[MOTION_MODULES[motion_module].version].max_length


def motion_module_version(motion_module: str) -> str | None:
    """The architecture of a motion module, by its name here or by a published file's name; None if neither knows."""
    if motion_module in MOTION_MODULES:
        return MOTION_MODULES[motion_module].version
    name = motion_module.rpartition("/")[2]
    rows = (row for row in MOTION_MODULES.values() if row.file.rpartition("/")[2] == name and name in PUBLISHED_FILES)
    return next((row.version for row in rows), None)
