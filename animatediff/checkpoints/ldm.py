"""The layout of Stable Diffusion's first release (LDM) -> diffusers' keys.

The renaming is diffusers' own. It drops what it does not know; here that is told.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError

Converted = tuple[dict[str, Tensor], tuple[str, ...]]
"""Weights by diffusers' keys, and the file's keys of which nothing became a weight."""

_NOISE = re.compile(
    r"(first_stage_model\.)?(model_ema|loss)\..+|(.+\.)?(logvar|position_ids)|(betas|lvlb_weights|scale_factor)"
    r"|(sqrt_|sqrt_one_minus_|log_one_minus_|sqrt_recip_|sqrt_recipm1_)?alphas_cumprod(_prev)?"
    r"|posterior_(variance|log_variance_clipped|mean_coef1|mean_coef2)"
)


def without_noise(keys: Iterable[str]) -> list[str]:
    """``keys`` but for what trainers leave beside the weights: averages, losses, tables
    of the noise schedule.
    """
    return [key for key in keys if not _NOISE.fullmatch(key)]


def convert_unet(
    name: str, raw: Mapping[str, Tensor], layers_per_block: int
) -> Converted:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    config = {"layers_per_block": layers_per_block}
    return _converted(
        name, "unet", raw, lambda numbers: convert_ldm_unet_checkpoint(numbers, config)
    )


def convert_vae(
    name: str, raw: Mapping[str, Tensor], config: Mapping[str, Any]
) -> Converted:
    """With or without ``first_stage_model.`` before the keys."""
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    return _converted(
        name,
        "vae",
        raw,
        lambda numbers: convert_ldm_vae_checkpoint(numbers, dict(config)),
    )


def _converted(
    name: str,
    part: str,
    raw: Mapping[str, Tensor],
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor | None]],
) -> Converted:
    """Converts one number for each tensor instead of the tensors, and so learns which
    of them became which.
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
            f"the {part} of {name} has not the layout of SD 1.5", file=name
        ) from error
    weights, used = {}, set()
    for new, number in converted.items():
        if number is None:  # diffusers' word for a bias that is not there
            continue
        old = keys[int(number)]
        weights[new] = as_linear(raw[old]) if number.ndim < raw[old].ndim else raw[old]
        used.add(old)
    return weights, tuple(key for key in keys if key not in used)


def as_linear(weight: Tensor) -> Tensor:
    """The weight of a convolution over one point (c_out, c_in, 1, 1) as that of a
    linear layer; others unchanged.
    """
    return (
        weight.flatten(1)
        if weight.ndim > 2 and weight.shape[2:].numel() == 1
        else weight
    )
