"""Architecture of the models as frozen values. Imports nothing heavy, so that a CLI can
look at it for free.
"""

from dataclasses import dataclass, replace

from .errors import CheckpointError


@dataclass(frozen=True)
class MotionModuleConfig:
    """One motion module ("VanillaTemporalModule"): a transformer over the frame axis of
    one spatial position.

    Source: arXiv 2307.04725, section 4.2 and the published inference configs.
    ``norm_num_groups`` is 32 whatever the UNet uses. ``num_attention_blocks`` is 2 in
    the published text-to-video modules and 1 inside SparseCtrl. ``max_length`` is the
    number of frames that the sinusoid table covers.
    """

    num_attention_heads: int = 8
    num_transformer_blocks: int = 1
    num_attention_blocks: int = 2
    use_positional_encoding: bool = True
    max_length: int = 24
    norm_num_groups: int = 32
    use_mid_block: bool = False
    use_inflated_groupnorm: bool = True
    """False (v1): the UNet's resnets and conv_norm_out take their GroupNorm statistics
    over ALL frames of a video.
    """


V1 = MotionModuleConfig(max_length=24, use_inflated_groupnorm=False)
V2 = replace(V1, max_length=32, use_mid_block=True, use_inflated_groupnorm=True)
V3 = replace(V2, use_mid_block=False)
ANIMATELCM = replace(V2, max_length=64)
"""AnimateLCM (arXiv 2402.00769): v2 but for the table, which its file lacks; 64 is what
others take for it.
"""
_SPARSECTRL_MOTION = replace(V3, num_attention_blocks=1)


@dataclass(frozen=True)
class SparseControlNetConfig:
    """What a SparseCtrl branch has besides the UNet's encoder (arXiv 2311.16933; the
    published sparsectrl configs).

    ``use_simplified_condition_embedding``: the images come as VAE latents, one
    convolution embeds them; otherwise they come as pixels, which ``embedding_channels``
    bring down to latent size.
    """

    conditioning_channels: int = 4
    use_simplified_condition_embedding: bool = True
    embedding_channels: tuple[int, ...] = (16, 32, 96, 256)
    motion: MotionModuleConfig = _SPARSECTRL_MOTION

    @property
    def takes_latents(self) -> bool:
        return self.use_simplified_condition_embedding


SPARSECTRL_RGB = SparseControlNetConfig()
SPARSECTRL_SCRIBBLE = replace(
    SPARSECTRL_RGB, conditioning_channels=3, use_simplified_condition_embedding=False
)


@dataclass(frozen=True)
class UNet3DConfig:
    """The spatial UNet in SD 1.5's terms. Motion modules are added around it, see
    MotionModuleConfig.

    ``num_attention_heads`` is what SD 1.x files call ``attention_head_dim``: there it
    is the NUMBER of heads.
    """

    in_channels: int = 4
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    attention_blocks: tuple[bool, ...] = (True, True, True, False)
    """Down blocks that have spatial attention, top to bottom; up blocks mirror them."""
    layers_per_block: int = 2
    cross_attention_dim: int = 768
    num_attention_heads: tuple[int, ...] = (8, 8, 8, 8)
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    sample_size: int = 64

    @property
    def time_embed_dim(self) -> int:
        return self.block_out_channels[0] * 4


SD15 = UNet3DConfig()

# what SD 1.5 has and this UNet is written for; a file that says otherwise is another
# model
_MUST_BE = {
    "act_fn": "silu",
    "center_input_sample": False,
    "class_embed_type": None,
    "addition_embed_type": None,
    "dual_cross_attention": False,
    "only_cross_attention": False,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "resnet_time_scale_shift": "default",
    "time_embedding_type": "positional",
    "transformer_layers_per_block": 1,
    "upcast_attention": False,
    "use_linear_projection": False,
}


def unet_config_from_diffusers(raw: dict) -> UNet3DConfig:
    """``unet/config.json`` of an SD 1.5 folder -> UNet3DConfig. Raises CheckpointError
    for another architecture.
    """
    for key, wanted in _MUST_BE.items():
        if key in raw and raw[key] != wanted:
            raise CheckpointError(
                f"not an SD 1.5 UNet: {key} is {raw[key]!r}, must be {wanted!r}",
                key=key,
            )
    down = tuple(raw["down_block_types"])
    attention = tuple(name == "CrossAttnDownBlock2D" for name in down)
    up = [
        "CrossAttnUpBlock2D" if attends else "UpBlock2D"
        for attends in reversed(attention)
    ]
    if (
        set(down) - {"CrossAttnDownBlock2D", "DownBlock2D"}
        or list(raw["up_block_types"]) != up
    ):
        raise CheckpointError(
            f"not an SD 1.5 UNet: blocks {list(down)} / {raw['up_block_types']}",
            key="block_types",
        )
    heads = raw.get("num_attention_heads") or raw.get("attention_head_dim", 8)
    channels = tuple(raw["block_out_channels"])
    return UNet3DConfig(
        in_channels=raw["in_channels"],
        out_channels=raw["out_channels"],
        block_out_channels=channels,
        attention_blocks=attention,
        layers_per_block=raw["layers_per_block"],
        cross_attention_dim=raw["cross_attention_dim"],
        num_attention_heads=(heads,) * len(channels)
        if isinstance(heads, int)
        else tuple(heads),
        norm_num_groups=raw["norm_num_groups"],
        norm_eps=raw.get("norm_eps", 1e-5),
        sample_size=raw.get("sample_size") or 64,
    )
