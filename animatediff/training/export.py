"""What was trained, as files in the published layouts: float16 safetensors that say how
they came to be.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..atomic import written_whole
from ..checkpoints.files import as_half
from ..config import UNet3DConfig
from ..errors import ConfigurationError
from ..families import DEFAULT
from ..models.motion_module import PositionalEncoding
from ..models.unet import UNet3DConditionModel
from .ldm_layout import single_file
from .learners import Encoders

_UNET_FILE = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Origin:
    """What stands in a file's header."""

    stage: str
    config_hash: str
    steps: int

    def header(self) -> dict[str, str]:
        return {
            "format": "pt",
            "stage": self.stage,
            "config_hash": self.config_hash,
            "steps": str(self.steps),
        }


def write_weights(path: Path, weights: Mapping[str, Tensor], origin: Origin) -> Path:
    """Write ``weights`` in float16, whole or not at all. A tensor that float16 cannot
    hold stays as it is.
    """
    with written_whole(path) as part:
        save_file(
            {key: _halved(tensor) for key, tensor in weights.items()},
            part,
            metadata=origin.header(),
        )
    return path


def _halved(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    half = as_half(tensor)
    return tensor.clone().contiguous() if half is None else half


def motion_weights(model: torch.nn.Module) -> dict[str, Tensor]:
    """Motion modules in the published layout. Their positional tables are told too: by
    them v1 is told from v3.
    """
    return {
        key: tensor
        for key, tensor in with_tables(model).items()
        if ".motion_modules." in key
    }


def with_tables(model: torch.nn.Module) -> dict[str, Tensor]:
    """A model's weights and positional tables, under its own keys, which are the
    published ones.
    """
    tables = {
        f"{name}.pe": module.pe
        for name, module in model.named_modules()
        if isinstance(module, PositionalEncoding)
    }
    return {**model.state_dict(), **tables}


def write_unet(folder: Path, unet: UNet3DConditionModel, origin: Origin) -> None:
    """The image UNet in diffusers' layout, without motion modules."""
    write_weights(folder / _UNET_FILE, image_weights(unet), origin)
    diffusers_unet(unet.config).save_config(folder)


def image_weights(unet: UNet3DConditionModel) -> dict[str, Tensor]:
    return {
        key: tensor
        for key, tensor in unet.state_dict().items()
        if ".motion_modules." not in key
    }


def diffusers_unet(config: UNet3DConfig) -> Any:
    """diffusers' own UNet of this architecture, without memory: for its config.json."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    make: Any = (
        UNet2DConditionModel  # whose annotations are narrower than what it takes
    )
    kinds = [
        "CrossAttnDownBlock2D" if attends else "DownBlock2D"
        for attends in config.attention_blocks
    ]
    ups = [
        "CrossAttnUpBlock2D" if attends else "UpBlock2D"
        for attends in reversed(config.attention_blocks)
    ]
    heads = set(config.num_attention_heads)
    with torch.device("meta"):
        return make(
            sample_size=config.sample_size,
            in_channels=config.in_channels,
            out_channels=config.out_channels,
            down_block_types=tuple(kinds),
            up_block_types=tuple(ups),
            block_out_channels=config.block_out_channels,
            layers_per_block=config.layers_per_block,
            cross_attention_dim=config.cross_attention_dim,
            norm_num_groups=config.norm_num_groups,
            norm_eps=config.norm_eps,
            attention_head_dim=heads.pop()
            if len(heads) == 1
            else config.num_attention_heads,
        )


def write_vae(folder: Path, vae: Any, origin: Origin) -> None:
    write_weights(folder / _UNET_FILE, vae.state_dict(), origin)
    config = json.loads(vae.to_json_string())
    config.pop("_name_or_path", None)  # where it was read from, on this machine
    (folder / "config.json").write_text(
        json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )


def write_text_encoder(
    folder: Path, config: Any, weights: Mapping[str, Tensor], origin: Origin
) -> None:
    """``weights`` by CLIPTextModel's keys; the file has them below ``text_model.``, as
    the published one has.
    """
    named = {
        f"text_model.{key.removeprefix('text_model.')}": tensor
        for key, tensor in weights.items()
    }
    write_weights(folder / "model.safetensors", named, origin)
    config.architectures = ["CLIPTextModel"]
    config.save_pretrained(folder)


def write_scheduler(folder: Path, beta_schedule: str) -> None:
    """The scheduler of images, on the noise that they were learned with; clips have the
    motion modules' own.
    """
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    images = {**DEFAULT.noise_schedule, "beta_schedule": beta_schedule}
    DDIMScheduler(**images, clip_sample=False, set_alpha_to_one=False).save_pretrained(
        folder
    )


def write_model(
    folder: Path,
    unet: UNet3DConditionModel,
    encoders: Encoders,
    base: Path,
    beta_schedule: str,
    origin: Origin,
) -> list[Path]:
    """A whole model twice: a folder in diffusers' layout, and one file in the first
    release's.
    """
    whole = folder / "model"
    write_unet(whole / "unet", unet, origin)
    write_vae(whole / "vae", encoders.vae, origin)
    text = encoders.text_encoder.state_dict()
    write_text_encoder(
        whole / "text_encoder", encoders.text_encoder.config, text, origin
    )
    write_scheduler(whole / "scheduler", beta_schedule)
    copy_folder(base / "tokenizer", whole / "tokenizer")
    weights = single_file(
        image_weights(unet),
        encoders.vae.state_dict(),
        text,
        unet.config.layers_per_block,
    )
    return [whole, write_weights(folder / "model.safetensors", weights, origin)]


def copy_folder(source: Path, target: Path) -> None:
    """Raises ConfigurationError where there is nothing to copy."""
    if not source.is_dir():
        raise ConfigurationError(
            f"model.base: there is no {source.name}/ in it", setting="model.base"
        )
    shutil.copytree(source, target, dirs_exist_ok=True)
