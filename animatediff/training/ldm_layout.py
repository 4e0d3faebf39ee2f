"""diffusers' keys -> the layout of the first latent-diffusion release, the
single file that every program reads.

The way back from ``checkpoints.ldm``, for UNets and VAEs of any width.
"""

import re
from collections.abc import Mapping

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
    r"(?P<side>down|up|mid)_blocks?\.(?:(?P<level>\d+)\.)?(?P<kind>resnets|attentions|downsamplers|upsamplers)"
    r"\.(?P<i>\d+)\.(?P<rest>.+)"
)


def single_file(
    unet: Mapping[str, Tensor],
    vae: Mapping[str, Tensor],
    text_encoder: Mapping[str, Tensor],
    layers_per_block: int,
) -> dict[str, Tensor]:
    """A whole model under the first release's keys."""
    attentive = {
        key.partition(".attentions.")[0] for key in unet if ".attentions." in key
    }
    vae_levels = 1 + max(
        int(found[1]) for key in vae if (found := re.search(r"up_blocks\.(\d+)", key))
    )
    weights = {
        f"model.diffusion_model.{_unet_key(key, layers_per_block, attentive)}": tensor
        for key, tensor in unet.items()
    }
    for key, tensor in vae.items():
        new = _vae_key(key, vae_levels)
        weights[f"first_stage_model.{new}"] = (
            tensor[:, :, None, None] if _was_conv(new, tensor) else tensor
        )
    for key, tensor in text_encoder.items():
        weights[
            f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}"
        ] = tensor
    return weights


def _unet_key(key: str, layers: int, attentive: set[str]) -> str:
    name, _, end = key.rpartition(".")
    if name in _UNET_ENDS:
        return f"{_UNET_ENDS[name]}.{end}"
    match = _UNET_LAYER.fullmatch(key)
    assert match, key
    side, kind, i, rest = match["side"], match["kind"], int(match["i"]), match["rest"]
    if kind == "resnets":
        part, _, end = rest.partition(".")
        rest = f"{_RESNET[part]}.{end}"
    if side == "mid":
        return f"middle_block.{2 * i if kind == 'resnets' else 1}.{rest}"
    level = int(match["level"])
    if side == "down":
        first = 1 + level * (layers + 1)
        if kind == "downsamplers":
            return f"input_blocks.{first + layers}.0.{rest.replace('conv.', 'op.', 1)}"
        return f"input_blocks.{first + i}.{int(kind == 'attentions')}.{rest}"
    first = level * (layers + 1)
    if kind == "upsamplers":
        return f"output_blocks.{first + layers}.{2 if f'up_blocks.{level}' in attentive else 1}.{rest}"
    return f"output_blocks.{first + i}.{int(kind == 'attentions')}.{rest}"


_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def _vae_key(key: str, levels: int) -> str:
    key = re.sub(
        r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key
    )
    key = re.sub(r"mid_block\.attentions\.0", "mid.attn_1", key)
    key = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", key)
    key = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(
        r"up_blocks\.(\d+)\.resnets",
        lambda m: f"up.{levels - 1 - int(m[1])}.block",
        key,
    )
    key = re.sub(
        r"up_blocks\.(\d+)\.upsamplers\.0",
        lambda m: f"up.{levels - 1 - int(m[1])}.upsample",
        key,
    )
    key = key.replace("conv_norm_out", "norm_out").replace(
        "conv_shortcut", "nin_shortcut"
    )
    if ".mid.attn_1." in key:
        before, _, rest = key.partition(".mid.attn_1.")
        name, _, end = rest.rpartition(".")
        key = f"{before}.mid.attn_1.{_VAE_ATTENTION[name]}.{end}"
    return key


def _was_conv(key: str, tensor: Tensor) -> bool:
    """The first release's VAE has convolutions over one point where diffusers has
    linear layers.
    """
    return ".attn_1." in key and tensor.ndim == 2
