"""The published weight files that a job may name by their names."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedFile:
    """A weight file that jobs and configs may name by its name alone.

    ``repo`` is its place on the Hugging Face hub. ``folders``, below the models folder,
    are where it is looked for first: ours, and the one of the published code's users.
    ``bytes``, where known, is its size.
    """

    repo: str
    folders: tuple[str, ...]
    bytes: int | None = None


_V1_V3_FILES = ("v3_sd15_mm.ckpt", "mm_sd_v15.ckpt", "mm_sd_v14.ckpt")
_CAMERA_MOVES = (
    *("ZoomIn", "ZoomOut", "PanLeft", "PanRight", "TiltUp", "TiltDown"),
    *("RollingClockwise", "RollingAnticlockwise"),
)
_DREAMBOOTH_MODELS = (
    *(
        "realisticVisionV60B1_v51VAE",
        "majicmixRealistic_v4",
        "majicmixRealistic_v5Preview",
        "toonyou_beta3",
    ),
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
    # Sizes are counted from the architecture in float32 (tests/data/keys), which is the
    # files but for their headers.
    **{
        name: PublishedFile(_ANIMATEDIFF, _MOTION_MODULE, 1_668_550_400)
        for name in _V1_V3_FILES
    },
    "mm_sd_v15_v2.ckpt": PublishedFile(_ANIMATEDIFF, _MOTION_MODULE, 1_812_837_120),
    "v3_sd15_adapter.ckpt": PublishedFile(
        _ANIMATEDIFF, ("loras", "Motion_Module"), 102_039_552
    ),
    **{
        f"v2_lora_{move}.ckpt": PublishedFile(_ANIMATEDIFF, _MOTION_LORA, 77_332_480)
        for move in _CAMERA_MOVES
    },
    "v3_sd15_sparsectrl_rgb.ckpt": PublishedFile(
        _ANIMATEDIFF, _SPARSECTRL, 1_986_923_520
    ),
    "v3_sd15_sparsectrl_scribble.ckpt": PublishedFile(
        _ANIMATEDIFF, _SPARSECTRL, 1_991_211_136
    ),
    "AnimateLCM_sd15_t2v.ckpt": PublishedFile(
        "wangfuyun/AnimateLCM", _MOTION_MODULE, 1_812_837_120
    ),
    "animatediff_lightning_4step_diffusers.safetensors": PublishedFile(
        "ByteDance/AnimateDiff-Lightning", _MOTION_MODULE
    ),
    **{
        f"{name}.safetensors": PublishedFile(_T2I, _DREAMBOOTH)
        for name in _DREAMBOOTH_MODELS
    },
    **{f"{name}.safetensors": PublishedFile(_T2I, _LORA) for name in _LORA_MODELS},
}
