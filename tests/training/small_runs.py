"""What the tests of training start from: a model of little more than a name, two frames
of the synthetic world.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from animatediff.config import V3, UNet3DConfig
from animatediff.models.motion_module import VanillaTemporalModule
from animatediff.models.unet import UNet3DConditionModel
from animatediff.training.config import TrainConfig, validated
from animatediff.training.export import (
    Origin,
    motion_weights,
    write_unet,
    write_weights,
)

WORLD = "lab.shapeworld.source:World"
SHAPEWORLD = Path(__file__).parents[2] / "models" / "shapeworld"
UNET = {
    "block_out_channels": [32, 32, 32, 32],
    "layers_per_block": 1,
    "cross_attention_dim": 64,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
    "sample_size": 8,
}
VAE = {
    "block_out_channels": [8, 16, 16, 16],
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "sample_size": 64,
}


def write_family(folder: Path) -> None:
    """A model with a random UNet of ``UNET``'s shape and a random motion module; the
    rest is the embedded family's.
    """
    origin = Origin("test", "0", 0)
    for part in ("vae", "text_encoder", "tokenizer"):
        (folder / part).symlink_to(SHAPEWORLD / part)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = UNet3DConfig(
            block_out_channels=(32,) * 4,
            layers_per_block=1,
            cross_attention_dim=64,
            num_attention_heads=(4,) * 4,
            norm_num_groups=8,
            sample_size=8,
        )
        unet = UNet3DConditionModel(config, V3)
        for module in unet.modules():
            if isinstance(module, VanillaTemporalModule):
                torch.nn.init.normal_(
                    module.temporal_transformer.proj_out.weight, std=0.05
                )
    write_unet(folder / "unet", unet, origin)
    write_weights(folder / "motion_module.safetensors", motion_weights(unet), origin)


def model_of(stage: str, family: Path) -> dict[str, Any]:
    """What a stage starts from."""
    motion = {
        "motion_module": str(family / "motion_module.safetensors"),
        "motion_module_version": "v3",
    }
    needed: dict[str, dict[str, Any]] = {
        "vae": {"vae": VAE},
        "text_encoder": {"text_encoder": {}},
        "text_to_image": {"unet": UNET},
        "motion": motion,
        "motion_lora": motion,
        "sparsectrl": {**motion, "control": "rgb"},
        "lcm": motion,
    }
    return {"base": str(family), **needed.get(stage, {})}


MakeConfig = Callable[..., TrainConfig]


def merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    result = dict(first)
    for key, value in second.items():
        old = result.get(key)
        result[key] = (
            merged(old, value)
            if isinstance(old, dict) and isinstance(value, dict)
            else value
        )
    return result


def small_config(stage: str, family: Path, **changes: Any) -> TrainConfig:
    """Return a stage's config with changes; nested tables are merged."""
    raw = {
        "stage": stage,
        "data": {"source": WORLD, "size": 16, "num_frames": 2},
        "model": model_of(stage, family),
        "optimizer": {"lr": 1e-3},
        "ema": {"decay": 0.9},
        "lora": {"rank": 4},
        "vae": {"scaling_items": 4},
        "text": {"vocabulary_captions": 200},
        "steps": 4,
        "batch_size": 2,
        "log_every": 1,
    }
    return validated(merged(raw, changes))
