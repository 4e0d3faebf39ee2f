"""diffusers' keys -> the LDM layout, in a single file.

The inverse of ``checkpoints.ldm``, for UNets and VAEs of any
width. Every program reads this layout.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_LAYER = re.compile(
    r"(?P<side>down|up|mid)_blocks?\.(?:(?P<level>\d+)\.)?"
    r"(?P<kind>resnets|attentions|downsamplers|upsamplers)"
    r"\.(?P<i>\d+)\.(?P<rest>.+)"
)
_UNET, _VAE = "model.diffusion_model", "first_stage_model"
_TEXT = "cond_stage_model.transformer.text_model"


def single_file(
    unet: Mapping[str, Tensor],
    vae: Mapping[str, Tensor],
    text_encoder: Mapping[str, Tensor],
    layers_per_block: int,
) -> dict[str, Tensor]:
    """A whole model under the keys of the first release."""
    weights: dict[str, Tensor] = {}
    unet_keys = _UNetKeys(unet, layers_per_block)
    for key, tensor in unet.items():
        weights[f"{_UNET}.{unet_keys.renamed(key)}"] = tensor
    levels = _vae_levels(vae)
    for key, tensor in vae.items():
        renamed = _vae_key(key, levels)
        weights[f"{_VAE}.{renamed}"] = _vae_tensor(renamed, tensor)
    for key, tensor in text_encoder.items():
        weights[f"{_TEXT}.{key.removeprefix('text_model.')}"] = tensor
    return weights


class _UNetKeys:
    """Renames the keys of one UNet."""

    def __init__(self, keys: Iterable[str], layers_per_block: int) -> None:
        self._layers = layers_per_block
        self._attentive = {
            key.partition(".attentions.")[0] for key in keys if ".attentions." in key
        }

    def renamed(self, key: str) -> str:
        name, _, end = key.rpartition(".")
        if name in _UNET_ENDS:
            return f"{_UNET_ENDS[name]}.{end}"
        match = _UNET_LAYER.fullmatch(key)
        if match is None:
            raise ValueError(f"unknown UNet layer: {key}")
        kind, i, rest = match["kind"], int(match["i"]), match["rest"]
        if kind == "resnets":
            part, _, end = rest.partition(".")
            rest = f"{_RESNET[part]}.{end}"
        if match["side"] == "mid":
            return f"middle_block.{2 * i if kind == 'resnets' else 1}.{rest}"
        rename = self._down if match["side"] == "down" else self._up
        return rename(int(match["level"]), kind, i, rest)

    def _down(self, level: int, kind: str, i: int, rest: str) -> str:
        first = 1 + level * (self._layers + 1)
        if kind == "downsamplers":
            rest = rest.replace("conv.", "op.", 1)
            return f"input_blocks.{first + self._layers}.0.{rest}"
        return f"input_blocks.{first + i}.{_place(kind)}.{rest}"

    def _up(self, level: int, kind: str, i: int, rest: str) -> str:
        first = level * (self._layers + 1)
        if kind == "upsamplers":
            place = 2 if f"up_blocks.{level}" in self._attentive else 1
            return f"output_blocks.{first + self._layers}.{place}.{rest}"
        return f"output_blocks.{first + i}.{_place(kind)}.{rest}"


def _place(kind: str) -> int:
    return 1 if kind == "attentions" else 0


_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_VAE_NAMES = (
    (r"mid_block\.attentions\.0", r"mid.attn_1"),
    (r"down_blocks\.(\d+)\.resnets", r"down.\1.block"),
    (r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample"),
    (r"conv_norm_out", r"norm_out"),
    (r"conv_shortcut", r"nin_shortcut"),
)
_VAE_UPSAMPLING = re.compile(r"up_blocks\.(\d+)\.(resnets|upsamplers\.0)")
_VAE_MIDDLE = re.compile(r"mid_block\.resnets\.(\d)")


def _vae_levels(keys: Iterable[str]) -> int:
    matches = (re.search(r"up_blocks\.(\d+)", key) for key in keys)
    return 1 + max(int(match[1]) for match in matches if match)


def _vae_key(key: str, levels: int) -> str:
    """The first release counts upsampling levels from the other end."""

    def middle(match: re.Match[str]) -> str:
        return f"mid.block_{int(match[1]) + 1}"

    def upsampling(match: re.Match[str]) -> str:
        part = "block" if match[2] == "resnets" else "upsample"
        return f"up.{levels - 1 - int(match[1])}.{part}"

    key = _VAE_MIDDLE.sub(middle, key)
    key = _VAE_UPSAMPLING.sub(upsampling, key)
    for pattern, replacement in _VAE_NAMES:
        key = re.sub(pattern, replacement, key)
    before, attention, rest = key.partition(".mid.attn_1.")
    if not attention:
        return key
    name, _, end = rest.rpartition(".")
    return f"{before}{attention}{_VAE_ATTENTION[name]}.{end}"


def _vae_tensor(key: str, tensor: Tensor) -> Tensor:
    """Attention of the first release uses 1x1 convolutions, not linear layers."""
    if ".attn_1." in key and tensor.ndim == 2:
        return tensor[:, :, None, None]
    return tensor
