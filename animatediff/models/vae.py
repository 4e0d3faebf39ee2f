"""diffusers' VAE with our layers: fewer passes over its images, the same weights."""

from typing import Any

from torch import Tensor, nn

from ..kernels.elementwise import conv_for_norm, conv_residual
from .norm import GroupNorm, use_own_group_norm


class VaeResnet(nn.Module):
    """norm, SiLU, conv; norm, SiLU, conv; add the input.

    It takes its layers, and so the names of their weights, from diffusers' block.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm1: GroupNorm = block.norm1
        self.conv1: nn.Conv2d = block.conv1
        self.norm2: GroupNorm = block.norm2
        self.conv2: nn.Conv2d = block.conv2
        self.conv_shortcut: nn.Module | None = block.conv_shortcut
        self.train(block.training)

    def forward(self, input_tensor: Tensor, temb: None = None) -> Tensor:
        """Map (n, c_in, h, w) to (n, c_out, h, w), both channels_last.

        ``temb`` is diffusers' argument for a timestep, which a VAE does not have.
        """
        del temb
        bias = self.conv1.bias
        assert bias is not None  # noqa: S101 - see _is_plain
        hidden = self.norm1(input_tensor, silu=True)
        hidden, added = conv_for_norm(hidden, self.conv1.weight, bias)
        hidden = self.norm2(hidden, silu=True, added=added)
        if self.conv_shortcut is not None:
            input_tensor = self.conv_shortcut(input_tensor)
        return conv_residual(hidden, self.conv2.weight, self.conv2.bias, input_tensor)


class SiluNorm(GroupNorm):
    """A GroupNorm with the SiLU that follows it."""

    def forward(self, input: Tensor, *others: Any, **options: Any) -> Tensor:
        """Map (n, c, h, w) to (n, c, h, w), see ``GroupNorm``."""
        return super().forward(input, *others, **{**options, "silu": True})


def use_own_layers(vae: Any) -> None:
    """Let diffusers' VAE compute with our norms and sums.

    Weights, their names and places in memory stay as they are. Blocks that a VAE of
    this kind does not have stay diffusers' own.
    """
    from diffusers.models.resnet import ResnetBlock2D

    use_own_group_norm(vae)
    for parent in list(vae.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is ResnetBlock2D and _is_plain(child):
                setattr(parent, name, VaeResnet(child))
    for part in (vae.encoder, vae.decoder):
        if isinstance(part.conv_act, nn.SiLU):
            part.conv_norm_out = _silu_norm(part.conv_norm_out)
            part.conv_act = nn.Identity().train(part.training)


def _is_plain(block: Any) -> bool:
    """Whether a block is what ``VaeResnet`` computes, and nothing more."""
    extras = (block.time_emb_proj, block.upsample, block.downsample)
    return (
        all(extra is None for extra in extras)
        and isinstance(block.nonlinearity, nn.SiLU)
        and block.time_embedding_norm in ("default", "group")
        and block.output_scale_factor == 1
        and block.dropout.p == 0
    )


def _silu_norm(norm: GroupNorm) -> SiluNorm:
    result = SiluNorm(norm.num_groups, norm.num_channels, norm.eps, device="meta")
    result.weight, result.bias = norm.weight, norm.bias
    return result.train(norm.training)
