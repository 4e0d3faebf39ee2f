"""diffusers' keys -> the LDM layout, in a single file.

The inverse of ``checkpoints.ldm``, for UNets and VAEs of any
width. Every program reads this layout.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from ..checkpoints.ldm_names import LdmUNetKeys

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
    unet_keys = LdmUNetKeys(unet, layers_per_block)
    for key, tensor in unet.items():
        weights[f"{_UNET}.{unet_keys.renamed(key)}"] = tensor
    levels = _vae_levels(vae)
    for key, tensor in vae.items():
        renamed = _vae_key(key, levels)
        weights[f"{_VAE}.{renamed}"] = _vae_tensor(renamed, tensor)
    for key, tensor in text_encoder.items():
        weights[f"{_TEXT}.{key.removeprefix('text_model.')}"] = tensor
    return weights


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
