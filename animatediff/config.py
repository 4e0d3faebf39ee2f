"""Architecture of the models as frozen values.

Nothing heavy is imported, so that a command can look at them for free.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class MotionModuleConfig:
    """A motion module: a transformer over the frames at one spatial position.

    Source: "VanillaTemporalModule" of arXiv 2307.04725, section 4.2, and the published
    inference configs. ``norm_num_groups`` is 32 for every UNet.
    ``num_attention_blocks`` is 2 in the published text-to-video modules and 1 inside
    SparseCtrl. ``max_length`` is the number of frames that the sinusoid table covers.
    """

    num_attention_heads: int = 8
    num_transformer_blocks: int = 1
    num_attention_blocks: int = 2
    use_positional_encoding: bool = True
    max_length: int = 24
    norm_num_groups: int = 32
    use_mid_block: bool = False
    use_inflated_groupnorm: bool = True
    """False in v1: the GroupNorms of the UNet's resnets and its conv_norm_out take
    their statistics over ALL frames of a video.
    """


V1 = MotionModuleConfig(max_length=24, use_inflated_groupnorm=False)
V2 = replace(V1, max_length=32, use_mid_block=True, use_inflated_groupnorm=True)
V3 = replace(V2, use_mid_block=False)
ANIMATELCM = replace(V2, max_length=64)
"""AnimateLCM (arXiv 2402.00769): v2 with a longer table. Its file has no table; other
implementations use 64 frames.
"""
_SPARSECTRL_MOTION = replace(V3, num_attention_blocks=1)


@dataclass(frozen=True)
class SparseControlNetConfig:
    """A SparseCtrl branch, apart from its copy of the UNet's encoder.

    Source: arXiv 2311.16933 and the published sparsectrl configs. With
    ``use_simplified_condition_embedding`` the images come as VAE latents, and one
    convolution embeds them. Otherwise they come as pixels, and convolutions of
    ``embedding_channels`` reduce them to the size of latents.
    """

    conditioning_channels: int = 4
    use_simplified_condition_embedding: bool = True
    embedding_channels: tuple[int, ...] = (16, 32, 96, 256)
    motion: MotionModuleConfig = _SPARSECTRL_MOTION

    @property
    def takes_latents(self) -> bool:
        """Whether the images come as VAE latents."""
        return self.use_simplified_condition_embedding


SPARSECTRL_RGB = SparseControlNetConfig()
SPARSECTRL_SCRIBBLE = replace(
    SPARSECTRL_RGB, conditioning_channels=3, use_simplified_condition_embedding=False
)


@dataclass(frozen=True)
class UNet3DConfig:
    """The spatial UNet, without the motion modules around it (MotionModuleConfig).

    ``num_attention_heads`` is called ``attention_head_dim`` in published files, but it
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
        """Width of the timestep's embedding."""
        return self.block_out_channels[0] * 4
