"""Keys and shapes of weight files of every kind, for models that hold no numbers."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from animatediff.catalog import MOTION_MODULE_VERSIONS
from animatediff.families import SD15
from animatediff.families.unet_config import read_unet_config
from animatediff.models.unet import UNet3DConditionModel

Shapes = Mapping[str, Sequence[int]]
Parts = Mapping[str, Any]


def shapes_of(model: torch.nn.Module) -> Shapes:
    """Return the shape of every weight by its key."""
    weights = model.state_dict()
    return {key: tuple(tensor.shape) for key, tensor in weights.items()}


def motion_shapes(unet: Any, version: str) -> Shapes:
    """Return the shapes of a motion module for ``unet``, in the published layout."""
    config = read_unet_config(dict(unet.config), SD15)
    with torch.device("meta"):
        model = UNet3DConditionModel(config, MOTION_MODULE_VERSIONS[version])
    shapes = shapes_of(model)
    return {key: shape for key, shape in shapes.items() if ".motion_modules." in key}


def processor_lora_shapes(weights: Shapes, rank: int) -> Shapes:
    """Return a LoRA of every attention projection among ``weights``.

    The keys have the layout of the published AnimateDiff files.
    """
    lora: dict[str, Sequence[int]] = {}
    for key, (c_out, *c_in) in weights.items():
        match = re.fullmatch(r"(.+)\.(to_q|to_k|to_v|to_out)(\.0)?\.weight", key)
        if match:
            layer = f"{match[1]}.processor.{match[2]}_lora"
            lora[f"{layer}.down.weight"] = (rank, *c_in)
            lora[f"{layer}.up.weight"] = (c_out, rank)
    return lora


def kohya_lora_shapes(parts: Parts, rank: int) -> Shapes:
    """Return a LoRA as kohya's trainer makes it.

    It has every layer of the UNet's spatial transformers and of the text encoder's.
    """
    unet, text = shapes_of(parts["unet"]), shapes_of(parts["text_encoder"])
    return {
        **_kohya_layers("lora_unet_", unet, ".attentions.", rank),
        **_kohya_layers("lora_te_text_model_", text, "encoder.layers.", rank),
    }


def _kohya_layers(prefix: str, weights: Shapes, place: str, rank: int) -> Shapes:
    lora: dict[str, Sequence[int]] = {}
    for key, (c_out, *c_in) in weights.items():
        if place in key and c_in:
            layer = prefix + key.removesuffix(".weight").replace(".", "_")
            ones = [1] * (len(c_in) - 1)
            lora[f"{layer}.lora_down.weight"] = (rank, *c_in)
            lora[f"{layer}.alpha"] = ()
            lora[f"{layer}.lora_up.weight"] = (c_out, rank, *ones)
    return lora


def dreambooth_shapes(parts: Parts) -> Shapes:
    """Return a whole model in the layout of SD's first release."""
    return {
        ldm_key(part, key): _ldm_shape(part, key, shape)
        for part, model in parts.items()
        for key, shape in shapes_of(model).items()
    }


def _ldm_shape(part: str, key: str, shape: Sequence[int]) -> Sequence[int]:
    """Return ``shape``; projections of the VAE's attention become convolutions."""
    is_linear = len(shape) == 2
    is_convolution = part == "vae" and ".attentions." in key and is_linear
    return (*shape, 1, 1) if is_convolution else shape


_LDM_UNET = (
    "time_embedding.linear_1=time_embed.0 time_embedding.linear_2=time_embed.2"
    " conv_in=input_blocks.0.0"
    " conv_norm_out=out.0 conv_out=out.2 norm1=in_layers.0 conv1=in_layers.2"
    " time_emb_proj=emb_layers.1"
    " norm2=out_layers.0 conv2=out_layers.3 conv_shortcut=skip_connection"
)
_LDM_VAE = (
    "mid_block.attentions.0=mid.attn_1 mid_block.resnets.0=mid.block_1"
    " mid_block.resnets.1=mid.block_2"
    " .resnets.=.block. down_blocks=down samplers.0=sample conv_shortcut=nin_shortcut"
    " conv_norm_out=norm_out"
    " group_norm=norm .to_q=.q .to_k=.k .to_v=.v .to_out.0=.proj_out"
    " up_blocks.0=up.3 up_blocks.1=up.2 up_blocks.2=up.1 up_blocks.3=up.0"
)


def ldm_key(part: str, key: str) -> str:
    """Return the name of a weight in SD's first release.

    The models have four levels, and in the UNet two layers in each.
    """
    if part == "text_encoder":
        return f"cond_stage_model.transformer.text_model.{key}"
    if part == "unet":
        return f"model.diffusion_model.{_ldm_unet_key(key)}"
    for before, after in _renames(_LDM_VAE).items():
        key = key.replace(before, after)
    return f"first_stage_model.{key}"


def _renames(table: str) -> dict[str, str]:
    """Return diffusers' names -> those of SD's first release, in the table's order."""
    names: dict[str, str] = {}
    for row in table.split():
        before, _, after = row.partition("=")
        names[before] = after
    return names


_UNET_KEY = re.compile(
    r"(?:(down|mid|up)_block(?:s\.(\d))?\.(\w+)\.(\d)\.)?(.+)\.(weight|bias)"
)


def _ldm_unet_key(key: str) -> str:
    match = _UNET_KEY.fullmatch(key)
    assert match is not None
    side, level, kind, layer, name, suffix = match.groups("0")
    if kind == "downsamplers":
        name = "op"
    name = _renames(_LDM_UNET).get(name, name)
    place = _ldm_place(side, int(level), kind, int(layer))
    return f"{place}{name}.{suffix}"


def _ldm_place(side: str, level: int, kind: str, layer: int) -> str:
    """Return the block of a layer: a level has three blocks, the last is a sampler."""
    first = 3 * level
    number = 2 if kind.endswith("samplers") else layer
    slots = {"attentions": 1, "upsamplers": 2 if level else 1}
    slot = slots.get(kind, 0)
    places = {
        "down": f"input_blocks.{first + number + 1}.{slot}.",
        "up": f"output_blocks.{first + number}.{slot}.",
        "mid": f"middle_block.{slot or 2 * number}.",
    }
    return places.get(side, "")
