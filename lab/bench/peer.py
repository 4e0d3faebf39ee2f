"""diffusers' pipeline, loaded from files."""

from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.models.unets.unet_motion_model import MotionAdapter
from diffusers.pipelines.animatediff.pipeline_animatediff import AnimateDiffPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

KINDS: dict[str, Any] = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": transformers.CLIPTextModel,
}
"""The classes of a base model's parts."""


def build(base: Path, motion: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """Load the pipeline of a base model's folder and a motion module's."""
    parts = {
        part: kind.from_pretrained(base / part, torch_dtype=dtype)
        for part, kind in KINDS.items()
    }
    adapter: Any = MotionAdapter
    parts["motion_adapter"] = adapter.from_pretrained(motion, torch_dtype=dtype)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(base / "tokenizer")
    pipeline: Any = AnimateDiffPipeline(
        **parts, tokenizer=tokenizer, scheduler=DDIMScheduler()
    )
    return pipeline.to(device)
