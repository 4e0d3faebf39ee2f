"""diffusers' keys -> the LDM layout, in a single file.

The inverse of ``checkpoints.ldm``, for UNets and VAEs of any
width. Every program reads this layout.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from ..checkpoints.ldm_names import LdmUNetKeys
from ..families import Family


def single_file(
    family: Family, parts: Mapping[str, Mapping[str, Tensor]], layers_per_block: int
) -> dict[str, Tensor]:
    """A whole model of ``family`` under the keys of the first release.

    ``parts`` has the weights of each of the family's parts by its name.
    """
    unet, vae = parts[family.unet.name], parts[family.vae.name]
    weights: dict[str, Tensor] = {}
    unet_keys = LdmUNetKeys(unet, layers_per_block)
    for key, tensor in unet.items():
        weights[family.unet.single_file_prefix + unet_keys.renamed(key)] = tensor
    levels = _vae_levels(vae)
    for key, tensor in vae.items():
        renamed = _vae_key(key, levels)
        weights[family.vae.single_file_prefix + renamed] = _vae_tensor(renamed, tensor)
    for row in family.text_encoders:
        for key, tensor in parts[row.name].items():
            renamed = row.inner_prefix + key.removeprefix(row.inner_prefix)
            weights[row.single_file_prefix + renamed] = tensor
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
