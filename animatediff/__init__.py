"""AnimateDiff: text-to-video with any image model of a known family.

The method is that of arXiv 2307.04725. The public names are imported at their first
use, so ``import animatediff`` is fast.
"""

import importlib

TYPE_CHECKING = False  # type checkers take it as true; importing typing takes 8 ms
# pyproject.toml, scripts.release and scripts/build_image.sh read this line
__version__ = "1.0.0.dev0"

_HOMES = {
    "AnimateDiffError": "errors",
    "AnimationInputs": "sampling.inputs",
    "AnimationPipeline": "pipeline",
    "LoraFile": "job.clip",
    "SparseControl": "controls.sparsectrl",
    "SparseControlNetModel": "models.sparse_controlnet",
    "UNet3DConditionModel": "models.unet",
    "VanillaTemporalModule": "models.motion_module",
    "control_images": "controls.sparsectrl",
    "load_sparse_controlnet": "controls.sparsectrl",
    "load_weights": "published",
    "save_videos_grid": "video.grid",
}

if TYPE_CHECKING:  # _HOMES once more, for type checkers and editors
    from .controls.sparsectrl import SparseControl as SparseControl
    from .controls.sparsectrl import control_images as control_images
    from .controls.sparsectrl import load_sparse_controlnet as load_sparse_controlnet
    from .errors import AnimateDiffError as AnimateDiffError
    from .job.clip import LoraFile as LoraFile
    from .models.motion_module import VanillaTemporalModule as VanillaTemporalModule
    from .models.sparse_controlnet import SparseControlNetModel as SparseControlNetModel
    from .models.unet import UNet3DConditionModel as UNet3DConditionModel
    from .pipeline import AnimationPipeline as AnimationPipeline
    from .published import load_weights as load_weights
    from .sampling.inputs import AnimationInputs as AnimationInputs
    from .video.grid import save_videos_grid as save_videos_grid

__all__ = ["__version__", *_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return ["__version__", *_HOMES]
