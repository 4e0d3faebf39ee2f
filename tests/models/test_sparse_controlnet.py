"""The SparseCtrl branch: published keys, zero output at first, half precision."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from animatediff.config import (
    SPARSECTRL_RGB,
    SPARSECTRL_SCRIBBLE,
    SparseControlNetConfig,
    UNet3DConfig,
)
from animatediff.families import SD15
from animatediff.models.sparse_controlnet import SparseControlNetModel

pytestmark = pytest.mark.slow

KEYS = Path(__file__).parents[1] / "data" / "keys"
KINDS = {"rgb": SPARSECTRL_RGB, "scribble": SPARSECTRL_SCRIBBLE}


def sized(control: SparseControlNetConfig, pixels: int) -> torch.Tensor:
    side = pixels // 8 if control.takes_latents else pixels
    return torch.rand(
        1,
        control.conditioning_channels + 1,
        4,
        side,
        side,
        generator=torch.Generator().manual_seed(0),
    )


def random_branch(
    config: UNet3DConfig, control: SparseControlNetConfig, seed: int = 1
) -> SparseControlNetModel:
    torch.manual_seed(seed)
    model = SparseControlNetModel(config, control).eval().requires_grad_(False)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_keys_and_shapes_are_the_published_ones(kind: str) -> None:
    with torch.device("meta"):
        model = SparseControlNetModel(SD15.unet_config, KINDS[kind])
    shapes = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    assert shapes == json.loads((KEYS / f"sparsectrl_{kind}.json").read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_branch_adds_nothing(kind: str, tiny_config: UNet3DConfig) -> None:
    model = SparseControlNetModel(tiny_config, KINDS[kind]).eval()
    text = model.encode_text(torch.randn(2, 77, tiny_config.cross_attention_dim))
    time = model.embed_timesteps(torch.tensor([321]))
    residuals = model.predict(model.embed_condition(sized(KINDS[kind], 96)), time, text)
    assert residuals.mid.shape[0] == 2 * 4
    assert not any(tensor.any() for tensor in (*residuals.down, residuals.mid))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision(
    kind: str, dtype: torch.dtype, tiny_config: UNet3DConfig
) -> None:
    """The median error over several draws of random weights is small.

    In a single draw, a group with almost no variance can amplify rounding.
    """
    control = replace(KINDS[kind], embedding_channels=(8, 16, 24, 32))

    def mid(model: SparseControlNetModel, states: torch.Tensor) -> torch.Tensor:
        embedded = model.embed_condition(sized(control, 96))
        return model.predict(
            embedded,
            model.embed_timesteps(torch.tensor([321])),
            model.encode_text(states),
        ).mid

    errors = []
    for seed in range(1, 6):
        model = random_branch(tiny_config, control, seed)
        states = torch.randn(1, 77, tiny_config.cross_attention_dim)
        exact = mid(model, states)
        half = mid(model.to(dtype), states)
        assert half.dtype == dtype
        assert exact.std() > 0.01
        errors.append((half.float() - exact).norm() / exact.norm())
    assert torch.stack(errors).median() < 12 * torch.finfo(dtype).eps


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_float32_keeps_its_digits_at_other_sizes(
    kind: str, seed: int, tiny_config: UNet3DConfig
) -> None:
    """Other widths and groups than the reference data's, frames that are not square.

    Groups of two channels have small deviations. A variance as E[x^2] - E[x]^2 is off
    by 3e-5 to 5e-4 here.
    """
    control = replace(KINDS[kind], embedding_channels=(8, 16, 24, 32))
    config = replace(
        tiny_config, block_out_channels=(64, 96, 64, 64), norm_num_groups=32
    )
    draw = torch.Generator().manual_seed(seed)
    scale = 1 if control.takes_latents else 8
    channels = control.conditioning_channels + 1
    condition = torch.zeros(1, channels, 12, 12 * scale, 16 * scale)
    for frame in (0, 6, 11):
        image = condition[:, :, frame]
        image.copy_(torch.rand(image.shape, generator=draw))
    states = torch.randn(2, 77, config.cross_attention_dim, generator=draw)

    @torch.inference_mode()
    def residuals(model: SparseControlNetModel, dtype: torch.dtype) -> torch.Tensor:
        model = model.to(dtype)
        computed = model.predict(
            model.embed_condition(condition.to(dtype)),
            model.embed_timesteps(torch.tensor([321])),
            model.encode_text(states.to(dtype)),
        )
        parts = (*computed.down, computed.mid)
        return torch.cat([part.flatten().double() for part in parts])

    model = random_branch(config, control, seed)
    exact = residuals(model, torch.float64)
    assert exact.std() > 0.1
    assert (residuals(model, torch.float32) - exact).abs().max() < 2e-5
