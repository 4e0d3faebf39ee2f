"""diffusers' UNetMotionModel gives the same output once its GroupNorm is corrected.

Both models have the same random weights.
"""

import json
from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_motion_model import (
    AnimateDiffTransformer3D,
    UNetMotionModel,
)
from torch import Tensor, nn

from animatediff.config import V2, V3, MotionModuleConfig, UNet3DConfig
from animatediff.models.unet import UNet3DConditionModel

RENAMES = {
    ".temporal_transformer": "",
    ".attention_blocks.0.": ".attn1.",
    ".attention_blocks.1.": ".attn2.",
    ".norms.0.": ".norm1.",
    ".norms.1.": ".norm2.",
    ".ff_norm.": ".norm3.",
}


class PerFrameGroupNorm(nn.Module):
    """32 groups with statistics per frame, as in the published motion module.

    diffusers computes the statistics across frames.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, norm.num_channels, eps=norm.eps)
        self.norm.weight, self.norm.bias = norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, f, h, w)"""
        frames = x.shape[2]
        return (
            self.norm(x.transpose(1, 2).flatten(0, 1))
            .unflatten(0, (-1, frames))
            .transpose(1, 2)
        )


def peer(
    raw: dict, motion: MotionModuleConfig, weights: dict[str, Tensor]
) -> UNetMotionModel:
    model = UNetMotionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=tuple(raw["block_out_channels"]),
        down_block_types=tuple(
            kind.replace("2D", "Motion").replace(
                "CrossAttnDownBlock", "CrossAttnDownBlock"
            )
            for kind in raw["down_block_types"]
        ),
        up_block_types=tuple(
            kind.replace("2D", "Motion") for kind in raw["up_block_types"]
        ),
        layers_per_block=raw["layers_per_block"],
        norm_num_groups=raw["norm_num_groups"],
        cross_attention_dim=raw["cross_attention_dim"],
        num_attention_heads=raw["attention_head_dim"],
        motion_num_attention_heads=8,
        motion_max_seq_length=motion.max_length,
        use_motion_mid_block=motion.use_mid_block,
    )
    renamed = {}
    for key, tensor in weights.items():
        if ".motion_modules." in key:
            for name, diffusers_name in RENAMES.items():
                key = key.replace(name, diffusers_name)
        renamed[key] = tensor
    result = model.load_state_dict(renamed, strict=False)
    assert not result.unexpected_keys
    assert all(key.endswith("pos_embed.pe") for key in result.missing_keys)
    for module in model.modules():
        if isinstance(module, AnimateDiffTransformer3D):
            module.norm = PerFrameGroupNorm(module.norm)  # type: ignore[assignment]
    return model.double().eval()


@pytest.mark.parametrize("motion", [V2, V3], ids=["v2", "v3"])
@torch.inference_mode()
def test_same_weights_same_output(
    motion: MotionModuleConfig,
    golden: Path,
    tiny_config: UNet3DConfig,
    tiny_weights: dict[str, Tensor],
) -> None:
    raw = json.loads((golden / "common" / "unet2d_config.json").read_text())
    unet = UNet3DConditionModel(tiny_config, motion)
    weights = {key: tiny_weights[key] for key in unet.state_dict()}
    unet.load_state_dict(weights)
    diffusers_unet = peer(raw, motion, weights)
    generator = torch.Generator().manual_seed(3)
    sample = torch.randn(2, 4, 6, 12, 16, generator=generator, dtype=torch.float64)
    text = torch.randn(
        2, 77, tiny_config.cross_attention_dim, generator=generator, dtype=torch.float64
    )
    expected = diffusers_unet(sample, 321, text.repeat_interleave(6, dim=0)).sample
    output = unet.double().eval()(sample, 321, text)
    assert output.shape == expected.shape
    assert (output - expected).abs().max() < 1e-9
