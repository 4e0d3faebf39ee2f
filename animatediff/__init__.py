"""AnimateDiff: any Stable Diffusion 1.5 image model as a text-to-video model (arXiv
2307.04725).

The public names are imported when first used, so that ``import animatediff`` costs
nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import AnimateDiffError
    from .models.motion_module import VanillaTemporalModule
    from .models.sparse_controlnet import SparseControlNetModel
    from .models.unet import UNet3DConditionModel
    from .pipeline import (
        AnimationInputs,
        AnimationPipeline,
        LoraFile,
        SparseControl,
        load_weights,
    )
    from .video.grid import save_videos_grid

__all__ = [
    "AnimateDiffError",
    "AnimationInputs",
    "AnimationPipeline",
    "LoraFile",
    "SparseControl",
    "SparseControlNetModel",
    "UNet3DConditionModel",
    "VanillaTemporalModule",
    "load_weights",
    "save_videos_grid",
]

_HOMES = {
    "AnimateDiffError": "errors",
    "AnimationInputs": "pipeline",
    "AnimationPipeline": "pipeline",
    "LoraFile": "pipeline",
    "SparseControl": "pipeline",
    "SparseControlNetModel": "models.sparse_controlnet",
    "UNet3DConditionModel": "models.unet",
    "VanillaTemporalModule": "models.motion_module",
    "load_weights": "pipeline",
    "save_videos_grid": "video.grid",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
