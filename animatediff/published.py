"""The published code's function that loads weight files, on our pipeline."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .checkpoints.motion_module import MotionModuleWeights, read_motion_module
from .errors import CheckpointError
from .job.prepared import LoraUse
from .pipeline import AnimationPipeline


def load_weights(  # noqa: PLR0913 - the parameters of the published function
    pipeline: AnimationPipeline,
    motion_module_path: str | Path = "",
    motion_module_version: str | None = None,
    *,
    motion_module_lora_configs: Sequence[Mapping[str, Any]] = (),
    adapter_lora_path: str | Path = "",
    adapter_lora_scale: float = 1.0,
    dreambooth_model_path: str | Path = "",
    lora_model_path: str | Path = "",
    lora_alpha: float = 0.8,
) -> AnimationPipeline:
    """Load published files into ``pipeline`` by the published code's rules; return it.

    The motion module stays if none is named. All else is as this call says, whatever
    earlier calls loaded: a DreamBooth model that is not named is removed, bit for bit.
    ``motion_module_lora_configs`` are ``{"path", "alpha"}``. Strengths multiply a LoRA
    without its file's own alpha. ``motion_module_version`` ("v1", "v2", "v3") is needed
    only if the file does not show it, see ``read_motion_module``; the version of a
    motion module that is loaded already serves too. Warns about keys of a file that fit
    nothing.

    Raises AssetError and CheckpointError; the pipeline is then as before.
    """
    loras: list[LoraUse] = []
    if lora_model_path:
        loras.append(_published_lora(lora_model_path, lora_alpha))
    if adapter_lora_path:
        loras.append(_published_lora(adapter_lora_path, adapter_lora_scale))
    for lora in motion_module_lora_configs:
        loras.append(_published_lora(lora["path"], lora.get("alpha", 1.0)))
    motion = None
    if motion_module_path:
        motion = _read_motion(pipeline, motion_module_path, motion_module_version)
    messages = pipeline.configure_weights(motion, dreambooth_model_path or None, loras)
    if motion:
        messages = (*pipeline.weights.motion_warnings, *messages)
    for message in messages:
        warnings.warn(message, stacklevel=2)
    return pipeline


def _published_lora(path: str | Path, strength: float) -> LoraUse:
    return LoraUse(path, strength, ignore_file_alpha=True)


def _read_motion(
    pipeline: AnimationPipeline, path: str | Path, version: str | None
) -> MotionModuleWeights:
    try:
        return read_motion_module(path, pipeline.family, version=version)
    except CheckpointError:
        loaded = pipeline.unet.motion
        if version or loaded is None or loaded.use_mid_block:
            raise
        version = "v3" if loaded.use_inflated_groupnorm else "v1"
        return read_motion_module(path, pipeline.family, version=version)
