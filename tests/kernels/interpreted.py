"""Print the relative errors of the kernels, run by Triton's interpreter, to float64.

Triton reads TRITON_INTERPRET when it is imported, so ``test_interpreted`` starts this
in a process of its own. One JSON object: the name of a case to its error.
"""

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from animatediff.config import V3, UNet3DConfig
from animatediff.kernels.attention import temporal_attention
from animatediff.kernels.choice import forced_kernels
from animatediff.kernels.elementwise import conv_for_norm, conv_residual, geglu
from animatediff.kernels.gpu import norms
from animatediff.kernels.normalization import (
    add_layer_norm,
    group_norm,
    layer_norm,
)
from animatediff.models.attention import pack_projections
from animatediff.models.unet import UNet3DConditionModel
from animatediff.models.vae import use_own_layers

DTYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
IMAGES = ((1, 9, 3, 5, 3, 1), (4, 40, 7, 9, 8, 2), (2, 96, 1, 1, 32, 1))
"""Frames, channels, height, width, groups, frames of one statistic."""
SEQUENCES = (
    *((frames, heads, dim) for frames in (1, 3, 16) for heads, dim in ((3, 40),)),
    (8, 2, 80),
    (24, 1, 160),
    (64, 1, 40),
)
Case = tuple[str, Tensor, Tensor]


def double(*tensors: Tensor) -> list[Tensor]:
    return [tensor.double() for tensor in tensors]


def image(n: int, c: int, h: int, w: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(n, h, w, c).to(dtype).permute(0, 3, 1, 2)


def group_norm_cases(dtype: torch.dtype) -> Iterator[Case]:
    for whole in (norms.WHOLE_GROUP, 0):
        for n, c, h, w, groups, frames in IMAGES:
            for silu, adds in ((True, True), (True, False), (False, False)):
                x = image(n, c, h, w, dtype) + 0.5
                weight, bias, added = torch.randn(3, c).to(dtype)
                norms.WHOLE_GROUP, before = whole, norms.WHOLE_GROUP
                result = group_norm(
                    x,
                    groups,
                    weight,
                    bias,
                    1e-5,
                    silu,
                    across_frames=frames,
                    added=added if adds else None,
                )
                norms.WHOLE_GROUP = before
                case = (
                    f"group_norm {whole} {(n, c, h, w, groups, frames)} {silu} {adds}"
                )
                shifted = x.double() + added.double()[:, None, None] * adds
                yield (
                    case,
                    result,
                    _group_norm(shifted, groups, weight, bias, frames, silu),
                )


def _group_norm(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, frames: int, silu: bool
) -> Tensor:
    video = x.unflatten(0, (-1, frames)).transpose(1, 2)
    normed = torch.group_norm(video, groups, weight.double(), bias.double(), 1e-5)
    normed = normed.transpose(1, 2).flatten(0, 1)
    return F.silu(normed) if silu else normed


def far_from_zero_cases(dtype: torch.dtype) -> Iterator[Case]:
    """Mean 100 and deviation 0.1, of which half precision keeps nothing."""
    if dtype != torch.float32:
        return
    weight, bias = torch.ones(8), torch.zeros(8)
    x = image(2, 8, 30, 30, dtype) * 0.1 + 100
    for whole in (norms.WHOLE_GROUP, 0):
        norms.WHOLE_GROUP, before = whole, norms.WHOLE_GROUP
        result = group_norm(x, 2, weight, bias, 1e-5)
        norms.WHOLE_GROUP = before
        expected = _group_norm(x.double(), 2, weight, bias, 1, False)
        yield f"far from zero {whole}", result, expected
    tokens = torch.randn(2, 3, 8) * 0.1 + 100
    expected = F.layer_norm(tokens.double(), (8,), weight.double(), bias.double())
    yield "far from zero layer_norm", layer_norm(tokens, weight, bias, 1e-5), expected


def layer_norm_cases(dtype: torch.dtype) -> Iterator[Case]:
    for c in (24, 320):
        weight, bias = torch.randn(c).to(dtype), torch.randn(c).to(dtype)
        x, table = torch.randn(6, 5, c).to(dtype), torch.randn(3, c).to(dtype)
        expected = F.layer_norm(x.double(), (c,), weight.double(), bias.double())
        rows = table.double().repeat(2, 1)[:, None]
        yield f"layer_norm {c}", layer_norm(x, weight, bias, 1e-5), expected
        result = layer_norm(x, weight, bias, 1e-5, table)
        yield f"layer_norm {c} table", result, expected + rows
        for images in (6, 2):
            residual = torch.randn(images, 5, c).to(dtype)
            total, normed = add_layer_norm(x, residual, weight, bias, 1e-5, table)
            added = x.double() + residual.double().repeat(6 // images, 1, 1)
            yield f"add_layer_norm {c} {images} sum", total, added
            # the definition normalises the sum that is stored
            expected_normed = F.layer_norm(
                total.double(), (c,), weight.double(), bias.double()
            )
            yield f"add_layer_norm {c} {images}", normed, expected_normed + rows


def _no_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    raise AssertionError((q.shape, k.shape, v.shape))


def attention_cases(dtype: torch.dtype) -> Iterator[Case]:
    for frames, heads, dim in SEQUENCES:
        product = torch.randn(2 * frames, 3, 3 * heads * dim).to(dtype)
        q, k, v = product.chunk(3, dim=-1)
        result = temporal_attention(q, k, v, frames, heads, _no_attention)
        case = f"temporal_attention {(frames, heads, dim)}"
        yield case, result, _attention(*double(q, k, v), frames=frames, heads=heads)


def _attention(q: Tensor, k: Tensor, v: Tensor, frames: int, heads: int) -> Tensor:
    def split(x: Tensor) -> Tensor:
        x = x.unflatten(0, (-1, frames)).unflatten(-1, (heads, -1))
        return x.permute(0, 2, 3, 1, 4)

    scores = split(q) @ split(k).mT / (q.shape[-1] // heads) ** 0.5
    attended = scores.softmax(-1) @ split(v)
    return attended.permute(0, 3, 1, 2, 4).flatten(0, 1).flatten(2)


def elementwise_cases(dtype: torch.dtype) -> Iterator[Case]:
    for width in (3, 320):
        x = torch.randn(2, 5, 2 * width).to(dtype) * 3
        hidden, gate = x.double().chunk(2, dim=-1)
        yield f"geglu {width}", geglu(x), hidden * F.gelu(gate)
    x, residual = image(2, 8, 3, 5, dtype), image(2, 24, 3, 5, dtype)
    weight, bias = torch.randn(24, 8, 3, 3).to(dtype) / 8, torch.randn(24).to(dtype)
    # the product itself rounds, so that the definition starts from its result
    product = F.conv2d(x, weight, padding=1).double()
    expected = product + bias.double()[:, None, None] + residual.double()
    yield "conv_residual", conv_residual(x, weight, bias, residual), expected
    hidden, added = conv_for_norm(x, weight, bias)
    assert added is bias
    yield "conv_for_norm", hidden, product


def unet_cases(dtype: torch.dtype) -> Iterator[Case]:
    """A guided step: all kernels together, behind what two texts share."""
    if dtype != torch.float32:
        return
    config = UNet3DConfig(
        block_out_channels=(16, 16, 16, 16),
        cross_attention_dim=8,
        norm_num_groups=4,
        num_attention_heads=(2, 2, 2, 2),
    )
    motion = replace(V3, norm_num_groups=4, num_attention_heads=2)
    unet = UNet3DConditionModel(config, motion)
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    pack_projections(unet)
    sample, text = torch.randn(1, 4, 2, 2, 2), torch.randn(2, 5, 8)

    def step(unet: UNet3DConditionModel) -> Tensor:
        row = unet.schedule(torch.tensor([500, 250])).row(1)
        states = unet.encode_text(text.to(unet.dtype))
        return unet.predict(sample.to(unet.dtype), row, states)

    yield "unet", step(unet), step(unet.double())


def vae_cases(dtype: torch.dtype) -> Iterator[Case]:
    """A decoder whose blocks differ in width."""
    if dtype != torch.float32:
        return
    model: Any = AutoencoderKL
    vae = model(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        norm_num_groups=4,
    )
    use_own_layers(vae)
    latents = torch.randn(2, 4, 3, 5)
    with torch.inference_mode(False):
        theirs = copy.deepcopy(vae).double().requires_grad_(False)
    yield "vae", vae.decode(latents).sample, theirs.decode(latents.double()).sample


CASES: tuple[Callable[[torch.dtype], Iterator[Case]], ...] = (
    group_norm_cases,
    far_from_zero_cases,
    layer_norm_cases,
    attention_cases,
    elementwise_cases,
    unet_cases,
    vae_cases,
)


def main() -> None:
    torch.manual_seed(0)
    errors: dict[str, float] = {}
    with forced_kernels(), torch.inference_mode():
        for name, dtype in DTYPES.items():
            for cases in CASES:
                for case, result, expected in cases(dtype):
                    assert result.dtype == dtype, case
                    assert result.shape == expected.shape, case
                    difference = (result.double() - expected).norm()
                    errors[f"{name} {case}"] = (difference / expected.norm()).item()
    print(json.dumps(errors))


if __name__ == "__main__":
    main()
