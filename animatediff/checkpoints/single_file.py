"""SD 1.5 models in one file, in the layout of the first release (LDM): UNet, VAE and text encoder under their prefixes.

The renaming is diffusers' own; what comes out of it is held against the model, key by key.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from .detect import described
from .files import check_keys_and_shapes, read_weights
from .lora import Address, Shapes

_PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.transformer.",
}
_OTHER_MODELS = {"conditioner.embedders.": "an SDXL model", "cond_stage_model.model.": "an SD 2 model"}


def read_single_file(
    path: str | Path, shapes: Shapes, layers_per_block: int, vae_config: Mapping[str, Any]
) -> dict[Address, Tensor]:
    """Every weight of an SD 1.5 single file, for the model that has ``shapes`` (motion modules aside).

    A file may lack the VAE or the text encoder; what it has must be whole. Exponential moving averages beside the
    weights are left alone. Raises AssetError where there is no file, CheckpointError for one of another kind.
    """
    name = Path(path).name
    raw = read_weights(path)
    for prefix, kind in _OTHER_MODELS.items():
        if any(key.startswith(prefix) for key in raw):
            raise CheckpointError(f"{name} is {kind}; an SD 1.5 model is expected", file=name)
    present = [part for part, prefix in _PREFIXES.items() if any(key.startswith(prefix) for key in raw)]
    if "unet" not in present:
        raise CheckpointError(f"{name} is not an SD 1.5 single file: it is {described(raw)}", file=name)
    found: dict[Address, Tensor] = {}
    for part in present:
        kept = {key: tensor for key, tensor in raw.items() if key.startswith(_PREFIXES[part])}
        weights = _convert(name, part, kept, layers_per_block, vae_config)
        wanted = {
            key: shape for (model, key), shape in shapes.items() if model == part and ".motion_modules." not in key
        }
        check_keys_and_shapes(f"the {part} of {name}", weights, wanted)
        found |= {(part, key): tensor for key, tensor in weights.items()}
    return found


def _convert(
    name: str, part: str, raw: dict[str, Tensor], layers_per_block: int, vae_config: Mapping[str, Any]
) -> dict[str, Tensor]:
    from diffusers.loaders import single_file_utils as diffusers

    try:
        if part == "unet":
            return diffusers.convert_ldm_unet_checkpoint(raw, {"layers_per_block": layers_per_block})
        if part == "vae":
            return diffusers.convert_ldm_vae_checkpoint(raw, dict(vae_config))
        text = diffusers.convert_ldm_clip_checkpoint(raw)
    except (KeyError, IndexError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"the {part} of {name} has not the layout of SD 1.5", file=name) from error
    text = {key.removeprefix("text_model."): tensor for key, tensor in text.items()}
    return {key: tensor for key, tensor in text.items() if not key.endswith("position_ids")}
