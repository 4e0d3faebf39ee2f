"""A VAE in a file of its own, in diffusers' layout or in the LDM layout."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from ..fetch.weight_file import AnyFile, WeightFile
from .detect import described
from .files import check_finite, check_keys_and_shapes, read_weights, renamed
from .ldm import Converted, as_linear, convert_vae, without_noise
from .lora_names import Shapes
from .single_file import SingleFile, shapes_of, split

_ATTENTION = re.compile(
    r"(?P<layer>.+\.attentions\.\d+)\.(?P<old>query|key|value|proj_attn)\.(?P<end>weight|bias)"
)
_LAYOUTS = ("VAE, diffusers layout", "VAE, LDM layout")
_NEW_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def read_vae(
    file: AnyFile, shapes: Shapes, vae_config: Mapping[str, Any]
) -> SingleFile:
    """Every weight of a VAE file, for the model that has ``shapes`` and ``vae_config``.

    Raises AssetError if there is no file, CheckpointError if it is of another kind or
    of another VAE.
    """
    file = WeightFile.of(file)
    name, raw = file.name, read_weights(file)
    kind = described(raw)
    if not kind.startswith("VAE"):
        raise CheckpointError(f"{name} is not a VAE: it is {kind}", file=name)
    if kind not in _LAYOUTS:
        raise CheckpointError(
            f"{name} is not a VAE for this model: it is {kind}", file=name
        )
    vae_weights = {key: raw[key] for key in without_noise(raw)}
    vae_shapes = shapes_of("vae", shapes)
    if kind == _LAYOUTS[1]:
        weights, unused = convert_vae(name, vae_weights, vae_config)
    else:
        weights, unused = _from_diffusers(name, vae_weights, vae_shapes)
    check_keys_and_shapes(name, weights, vae_shapes)
    check_finite(name, weights)
    tensors = {("vae", key): tensor for key, tensor in weights.items()}
    return SingleFile(name, tensors, unused=unused)


def _from_diffusers(
    name: str, raw: Mapping[str, Tensor], shapes: Mapping[str, Any]
) -> Converted:
    return split(as_named_today(name, raw), shapes)


def as_named_today(name: str, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``raw`` with attention layers as diffusers has written them since version 0.17.

    Raises CheckpointError if a layer is there under both names.
    """
    weights = renamed(name, raw, _new_name)
    for key, tensor in weights.items():
        if ".attentions." in key:
            weights[key] = as_linear(tensor)
    return weights


def _new_name(key: str) -> str:
    if (match := _ATTENTION.fullmatch(key)) is None:
        return key
    return f"{match['layer']}.{_NEW_NAMES[match['old']]}.{match['end']}"
