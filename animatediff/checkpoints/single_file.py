"""SD 1.5 models in one file, in the layout of the first release (LDM): UNet, VAE and
text encoder under their prefixes.

What comes out of the renaming is held against the model, key by key; what is left over
is told.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from .detect import described
from .files import check_keys_and_shapes, read_weights, renamed
from .ldm import Converted, convert_unet, convert_vae, without_noise
from .lora import Address, Shapes

_PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.transformer.",
}
_OTHER_MODELS = {
    "conditioner.embedders.": "an SDXL model",
    "cond_stage_model.model.": "an SD 2 model",
}


@dataclass(frozen=True, eq=False)
class SingleFile:
    """``absent``: parts ("vae", "text_encoder") that the file lacks. ``unused``: its
    keys that fit no model.

    Not counted among these is what trainers leave beside the weights, see
    ``ldm.without_noise``.
    """

    name: str
    tensors: Mapping[Address, Tensor]
    absent: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


def read_single_file(
    path: str | Path,
    shapes: Shapes,
    layers_per_block: int,
    vae_config: Mapping[str, Any],
) -> SingleFile:
    """Every weight of an SD 1.5 single file, for the model that has ``shapes`` (motion
    modules aside).

    A file may lack the VAE or the text encoder; what it has must be whole. Exponential
    moving averages beside the weights are left alone. Raises AssetError where there is
    no file, CheckpointError for one of another kind.
    """
    name = Path(path).name
    raw = read_weights(path)
    for prefix, kind in _OTHER_MODELS.items():
        if any(key.startswith(prefix) for key in raw):
            raise CheckpointError(
                f"{name} is {kind}; an SD 1.5 model is expected", file=name
            )
    keys = without_noise(raw)
    if not any(key.startswith(_PREFIXES["unet"]) for key in keys):
        raise CheckpointError(
            f"{name} is not an SD 1.5 single file: it is {described(raw)}", file=name
        )
    tensors: dict[Address, Tensor] = {}
    unused = [key for key in keys if not key.startswith(tuple(_PREFIXES.values()))]
    absent = []
    for part, prefix in _PREFIXES.items():
        own = {key: raw[key] for key in keys if key.startswith(prefix)}
        if not own:
            absent.append(part)
            continue
        wanted = wanted_of(part, shapes)
        if part == "unet":
            weights, left = convert_unet(name, own, layers_per_block)
        elif part == "vae":
            weights, left = convert_vae(name, own, vae_config)
        else:
            weights, left = _convert_text_encoder(name, own, wanted)
        check_keys_and_shapes(f"the {part} of {name}", weights, wanted)
        tensors |= {(part, key): tensor for key, tensor in weights.items()}
        unused += left
    return SingleFile(name, tensors, tuple(absent), tuple(unused))


def wanted_of(part: str, shapes: Shapes) -> dict[str, torch.Size]:
    """What a file must have for this part of the model."""
    return {
        key: shape
        for (model, key), shape in shapes.items()
        if model == part and ".motion_modules." not in key
    }


def split(weights: Mapping[str, Tensor], wanted: Mapping[str, torch.Size]) -> Converted:
    """``weights`` below the modules that the model has, and the keys of the others,
    such as a projection's.
    """
    modules = {key.partition(".")[0] for key in wanted}
    known = {
        key: tensor
        for key, tensor in weights.items()
        if key.partition(".")[0] in modules
    }
    return known, tuple(key for key in weights if key not in known)


def _convert_text_encoder(
    name: str, raw: Mapping[str, Tensor], wanted: Mapping[str, torch.Size]
) -> Converted:
    prefix = _PREFIXES["text_encoder"]
    weights, left = split(
        renamed(
            name, raw, lambda key: key.removeprefix(prefix).removeprefix("text_model.")
        ),
        wanted,
    )
    return weights, tuple(prefix + key for key in left)
