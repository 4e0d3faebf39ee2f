"""The layout of the first latent-diffusion release (LDM) -> diffusers' keys.

diffusers itself renames the keys. It drops keys that it does not know; this module
reports them.
"""

import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError

Converted = tuple[dict[str, Tensor], tuple[str, ...]]
"""Weights by diffusers' keys, and the keys of the file that became no weight."""

_NOISE = re.compile(
    r"(first_stage_model\.)?(model_ema|loss)\..+|(.+\.)?(logvar|position_ids)|(betas|lvlb_weights|scale_factor)"
    r"|(sqrt_|sqrt_one_minus_|log_one_minus_|sqrt_recip_|sqrt_recipm1_)?alphas_cumprod(_prev)?"
    r"|posterior_(variance|log_variance_clipped|mean_coef1|mean_coef2)"
)


def without_noise(keys: Iterable[str]) -> list[str]:
    """``keys`` without those that trainers leave beside the weights.

    These are moving averages, losses and tables of the noise schedule.
    """
    return [key for key in keys if not _NOISE.fullmatch(key)]


def convert_unet(
    name: str, raw: Mapping[str, Tensor], layers_per_block: int
) -> Converted:
    """The UNet's weights in ``raw``. Raises CheckpointError for another layout."""
    convert = _diffusers_function("convert_ldm_unet_checkpoint")
    config = {"layers_per_block": layers_per_block}
    return _converted(name, "unet", raw, lambda numbers: convert(numbers, config))


def convert_vae(
    name: str, raw: Mapping[str, Tensor], config: Mapping[str, Any]
) -> Converted:
    """The VAE's weights in ``raw``, with or without a prefix before the keys.

    Raises CheckpointError for another layout.
    """
    convert = _diffusers_function("convert_ldm_vae_checkpoint")
    return _converted(name, "vae", raw, lambda numbers: convert(numbers, dict(config)))


def _diffusers_function(name: str) -> Callable[..., dict[str, Tensor | None]]:
    module = importlib.import_module("diffusers.loaders.single_file_utils")
    return getattr(module, name)


def _converted(
    name: str,
    part: str,
    raw: Mapping[str, Tensor],
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor | None]],
) -> Converted:
    """Convert one number for each tensor instead of the tensors themselves.

    The numbers show which tensor became which weight.
    """
    keys = list(raw)
    numbers = {
        key: torch.full((1,) * tensor.ndim, i)
        for i, (key, tensor) in enumerate(raw.items())
    }
    try:
        converted = convert(numbers)
    except (KeyError, IndexError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"the {part} of {name} does not have the LDM layout of this model",
            file=name,
        ) from error
    weights: dict[str, Tensor] = {}
    used: set[str] = set()
    for new_key, number in converted.items():
        if number is None:  # diffusers' sign for a missing bias
            continue
        old_key = keys[int(number)]
        tensor = raw[old_key]
        weights[new_key] = as_linear(tensor) if number.ndim < tensor.ndim else tensor
        used.add(old_key)
    return weights, tuple(key for key in keys if key not in used)


def as_linear(weight: Tensor) -> Tensor:
    """A 1x1 convolution's weight (c_out, c_in, 1, 1) as a linear layer's (c_out, c_in).

    Weights of other shapes are not changed.
    """
    is_pointwise = weight.ndim > 2 and weight.shape[2:].numel() == 1
    return weight.flatten(1) if is_pointwise else weight
