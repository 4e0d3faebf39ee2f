"""Trained weights as files in the published layouts.

Files are safetensors in float16; their header states how they were made.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..atomic import written_whole
from ..checkpoints.files import as_half
from ..config import UNet3DConfig
from ..errors import ConfigurationError
from ..models.image_model import ImageModel
from ..models.motion_module import PositionalEncoding
from ..models.unet import UNet3DConditionModel
from .ldm_layout import single_file
from .learners import Encoders
from .libraries import (
    ddim_scheduler,
    diffusers_unet,
    named_modules,
    save_config,
    save_tensors,
)

_WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
_MOTION = ".motion_modules."


@dataclass(frozen=True)
class Origin:
    """How a file was made: the contents of its header."""

    stage: str
    config_hash: str
    steps: int

    def header(self) -> dict[str, str]:
        """The header's entries."""
        return {
            "format": "pt",
            "stage": self.stage,
            "config_hash": self.config_hash,
            "steps": str(self.steps),
        }


def write_weights(path: Path, weights: Mapping[str, Tensor], origin: Origin) -> Path:
    """Write ``weights`` in float16, atomically.

    A tensor that float16 cannot represent keeps its type.
    """
    halved = {key: _halved(tensor) for key, tensor in weights.items()}
    with written_whole(path) as part:
        save_tensors(part, halved, origin.header())
    return path


def _halved(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    half = as_half(tensor)
    return tensor.clone().contiguous() if half is None else half


def motion_weights(model: torch.nn.Module) -> dict[str, Tensor]:
    """Motion modules in the published layout.

    Positional tables are included: they distinguish v1 from v3.
    """
    weights = with_tables(model)
    return {key: tensor for key, tensor in weights.items() if _MOTION in key}


def with_tables(model: torch.nn.Module) -> dict[str, Tensor]:
    """A model's weights and positional tables, under the published keys."""
    tables = {
        f"{name}.pe": module.pe
        for name, module in named_modules(model)
        if isinstance(module, PositionalEncoding)
    }
    return {**model.state_dict(), **tables}


def write_unet(folder: Path, unet: UNet3DConditionModel, origin: Origin) -> None:
    """Write the image UNet in diffusers' layout, without motion modules."""
    write_weights(folder / _WEIGHTS_FILE, image_weights(unet), origin)
    unet_without_weights(unet.config).save_config(folder)


def image_weights(model: torch.nn.Module) -> dict[str, Tensor]:
    """The weights of a model without motion modules."""
    weights = model.state_dict()
    return {key: tensor for key, tensor in weights.items() if _MOTION not in key}


def unet_without_weights(config: UNet3DConfig) -> Any:
    """A UNet of diffusers on the meta device, for its config.json."""
    attends = config.attention_blocks
    heads = config.num_attention_heads
    same_heads = len(set(heads)) == 1
    with torch.device("meta"):
        return diffusers_unet(
            sample_size=config.sample_size,
            in_channels=config.in_channels,
            out_channels=config.out_channels,
            down_block_types=_block_types("DownBlock2D", attends),
            up_block_types=_block_types("UpBlock2D", attends[::-1]),
            block_out_channels=config.block_out_channels,
            layers_per_block=config.layers_per_block,
            cross_attention_dim=config.cross_attention_dim,
            norm_num_groups=config.norm_num_groups,
            norm_eps=config.norm_eps,
            attention_head_dim=heads[0] if same_heads else heads,
        )


def _block_types(kind: str, attends: tuple[bool, ...]) -> tuple[str, ...]:
    return tuple(f"CrossAttn{kind}" if each else kind for each in attends)


def write_vae(folder: Path, vae: Any, origin: Origin) -> None:
    """Write a VAE in diffusers' layout."""
    write_weights(folder / _WEIGHTS_FILE, vae.state_dict(), origin)
    config = json.loads(vae.to_json_string())
    config.pop("_name_or_path", None)  # a path of this machine
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


def write_text_encoder(
    folder: Path, config: Any, weights: Mapping[str, Tensor], origin: Origin
) -> None:
    """Write a text encoder from weights with CLIPTextModel's keys.

    In the file the keys begin with ``text_model.``, as in the published file.
    """
    named = {
        f"text_model.{key.removeprefix('text_model.')}": tensor
        for key, tensor in weights.items()
    }
    write_weights(folder / "model.safetensors", named, origin)
    config.architectures = ["CLIPTextModel"]
    save_config(config, folder)


def write_scheduler(folder: Path, beta_schedule: str) -> None:
    """Write the scheduler of images, with the noise that they were trained on.

    Clips use the motion modules' own schedule.
    """
    scheduler = ddim_scheduler(beta_schedule, clip_sample=False, set_alpha_to_one=False)
    save_config(scheduler, folder)


def write_model(
    folder: Path,
    unet: UNet3DConditionModel,
    encoders: Encoders,
    base: Path,
    beta_schedule: str,
    origin: Origin,
) -> list[Path]:
    """Write a whole model twice: as a folder in diffusers' layout, and as one file.

    The file is in the LDM layout.
    """
    whole, models = (
        folder / "model",
        ImageModel(unet, encoders.vae, encoders.text.models),
    )
    family = models.family
    write_unet(whole / family.unet.name, unet, origin)
    write_vae(whole / family.vae.name, encoders.vae, origin)
    for row, text in zip(family.text_encoders, models.texts, strict=True):
        weights, settings = text.encoder.state_dict(), text.encoder.config
        write_text_encoder(whole / row.name, settings, weights, origin)
        copy_folder(base / row.tokenizer, whole / row.tokenizer)
    write_scheduler(whole / "scheduler", beta_schedule)
    parts = {name: image_weights(model) for name, model in models.parts.items()}
    weights = single_file(family, parts, unet.config.layers_per_block)
    return [whole, write_weights(folder / "model.safetensors", weights, origin)]


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder of the base. Raises ConfigurationError if it does not exist."""
    if not source.is_dir():
        raise ConfigurationError(
            f"model.base: it has no folder {source.name}/", setting="model.base"
        )
    shutil.copytree(source, target, dirs_exist_ok=True)
