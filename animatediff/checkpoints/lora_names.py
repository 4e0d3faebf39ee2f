"""A model's layers under every name that LoRA files have for them.

Names have underscores for dots, as ``lora_layout.layer_name`` writes them.
"""

import re
from collections.abc import Collection, Iterator, Mapping

import torch

from ..families import Family, ModelPart
from .ldm_names import LdmUNetKeys
from .lora_layout import layer_name
from .motion_layout import diffusers_key, is_motion_key
from .weight_changes import Address

Shapes = Mapping[Address, torch.Size]
"""The shape of every weight, to check a file with before any weight changes."""

_OLD_TEXT_NAMES = {
    "q_proj": "to_q",
    "k_proj": "to_k",
    "v_proj": "to_v",
    "out_proj": "to_out",
}
"""The first LoRAs of diffusers gave the text encoder's layers the UNet's names."""


def layer_names(family: Family, shapes: Shapes) -> dict[str, tuple[str, str]]:
    """The model and the module that each name stands for.

    Only models that LoRAs of ``family`` may change have names.
    """
    names: dict[str, tuple[str, str]] = {}
    for part in family.parts:
        if not part.lora_tags:
            continue
        keys = [key for model, key in shapes if model == part.name]
        modules = dict.fromkeys(key.rpartition(".")[0] for key in keys)
        is_unet = part == family.unet
        spelled = _unet_names(modules) if is_unet else _text_names(part, modules)
        for module, spelling in spelled:
            name = layer_name(spelling)
            for tagged in (name, *(f"{tag}_{name}" for tag in part.lora_tags)):
                names[tagged] = (part.name, module)
    return names


def _unet_names(modules: Collection[str]) -> Iterator[tuple[str, str]]:
    ldm = LdmUNetKeys(modules, _layers_per_block(modules))
    for module in modules:
        key = f"{module}.weight"
        other = diffusers_key(key) if is_motion_key(key) else ldm.renamed(key)
        for spelling in (module, other.removesuffix(".weight")):
            yield module, spelling
            if spelling.endswith(".to_out.0"):
                yield module, spelling.removesuffix(".0")


def _layers_per_block(modules: Collection[str]) -> int:
    places = (re.match(r"down_blocks\.0\.resnets\.(\d+)\.", name) for name in modules)
    return 1 + max((int(place[1]) for place in places if place), default=0)


def _text_names(part: ModelPart, modules: Collection[str]) -> Iterator[tuple[str, str]]:
    for module in modules:
        last = module.rpartition(".")[2]
        old = module.removesuffix(last) + _OLD_TEXT_NAMES.get(last, last)
        for spelling in (module, old):
            yield module, spelling
            yield module, part.inner_prefix + spelling
