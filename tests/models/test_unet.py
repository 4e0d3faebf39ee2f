"""The UNet: published keys, precision, frame limits, and what sees what."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from animatediff.config import V1, V2, V3, MotionModuleConfig, UNet3DConfig
from animatediff.families import SD15
from animatediff.models.unet import UNet3DConditionModel

pytestmark = pytest.mark.slow

KEYS = Path(__file__).parents[1] / "data" / "keys"
VERSIONS = {"v1": V1, "v2": V2, "v3": V3}


def build(
    config: UNet3DConfig,
    weights: dict[str, Tensor],
    motion: MotionModuleConfig | None,
    attention: str = "sdpa",
) -> UNet3DConditionModel:
    unet = UNet3DConditionModel(config, motion, attention)
    unet.load_state_dict({key: weights[key] for key in unet.state_dict()})
    return unet.eval().requires_grad_(False)


def inputs(
    config: UNet3DConfig, frames: int = 4, batch: int = 1, size: int = 12
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(batch, 4, frames, size, size, generator=generator)
    text = torch.randn(batch, 77, config.cross_attention_dim, generator=generator)
    return sample, torch.tensor([481]), text


@pytest.mark.parametrize(
    ("name", "motion"),
    [
        ("unet_spatial_sd15", None),
        *((f"motion_module_{v}", c) for v, c in VERSIONS.items()),
    ],
)
def test_keys_and_shapes_are_the_published_ones(
    name: str, motion: MotionModuleConfig | None
) -> None:
    with torch.device("meta"):
        unet = UNet3DConditionModel(SD15.unet_config, motion)
    shapes = {
        key: list(tensor.shape)
        for key, tensor in unet.state_dict().items()
        if (".motion_modules." in key) == (motion is not None)
    }
    assert shapes == json.loads((KEYS / f"{name}.json").read_text())


def test_new_motion_modules_change_nothing(
    tiny_config: UNet3DConfig, tiny_weights: dict[str, Tensor]
) -> None:
    unet = build(tiny_config, tiny_weights, None)
    before = unet(*inputs(tiny_config))
    unet.set_motion(V2)
    assert torch.allclose(unet(*inputs(tiny_config)), before, atol=1e-6)
    unet.set_motion(None)
    assert torch.equal(unet(*inputs(tiny_config)), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("version", VERSIONS)
def test_half_precision(
    version: str,
    dtype: torch.dtype,
    tiny_config: UNet3DConfig,
    tiny_weights: dict[str, Tensor],
) -> None:
    unet = build(tiny_config, tiny_weights, VERSIONS[version])
    sample, time, text = inputs(tiny_config)
    exact = unet(sample, time, text)
    half = unet.to(dtype)(sample.to(dtype), time, text.to(dtype))
    assert half.dtype == dtype
    assert half.isfinite().all()
    assert (half.float() - exact).abs().mean() < (
        0.02 if dtype == torch.float16 else 0.1
    ) * exact.std()


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_32_frames(
    version: str, tiny_config: UNet3DConfig, tiny_weights: dict[str, Tensor]
) -> None:
    unet = build(tiny_config, tiny_weights, VERSIONS[version])
    assert unet(*inputs(tiny_config, frames=32)).shape == (1, 4, 32, 12, 12)
    with pytest.raises(ValueError, match="33 frames.*32 positions"):
        unet(*inputs(tiny_config, frames=33))


def test_v1_stops_at_24_frames(
    tiny_config: UNet3DConfig, tiny_weights: dict[str, Tensor]
) -> None:
    with pytest.raises(ValueError, match="25 frames.*24 positions"):
        build(tiny_config, tiny_weights, V1)(*inputs(tiny_config, frames=25))


@pytest.mark.parametrize("version", VERSIONS)
def test_videos_of_a_batch_are_independent(
    version: str, tiny_config: UNet3DConfig, tiny_weights: dict[str, Tensor]
) -> None:
    unet = build(tiny_config, tiny_weights, VERSIONS[version])
    sample, time, text = inputs(tiny_config, batch=2)
    both = unet(sample, time, text)
    for i in range(2):
        assert torch.allclose(
            both[i : i + 1], unet(sample[i : i + 1], time, text[i : i + 1]), atol=2e-5
        )


def test_a_timestep_for_each_video(
    tiny_config: UNet3DConfig, tiny_weights: dict[str, Tensor]
) -> None:
    unet = build(tiny_config, tiny_weights, V3)
    sample, _, text = inputs(tiny_config, batch=2)
    both = unet(sample, torch.tensor([961, 1]), text)
    for i, timestep in enumerate((961, 1)):
        assert torch.allclose(
            both[i : i + 1],
            unet(sample[i : i + 1], timestep, text[i : i + 1]),
            atol=2e-5,
        )


def test_precomputed_text_and_time_give_the_same_output(
    tiny_config: UNet3DConfig, tiny_weights: dict[str, Tensor]
) -> None:
    unet = build(tiny_config, tiny_weights, V3)
    sample, _, text = inputs(tiny_config)
    table = unet.embed_timesteps(torch.tensor([961, 481, 1]))
    step = unet.predict(sample, [row[1:2] for row in table], unet.encode_text(text))
    assert torch.allclose(step, unet(sample, 481, text), atol=1e-5)


def test_only_motion_modules_see_other_frames(
    tiny_config: UNet3DConfig, tiny_weights: dict[str, Tensor]
) -> None:
    sample, time, text = inputs(tiny_config)
    other = sample.clone()
    other[:, :, 3] += 1
    for motion, sees_others in ((None, False), (V3, True)):
        unet = build(tiny_config, tiny_weights, motion)
        changed = (
            (unet(sample, time, text) - unet(other, time, text))
            .abs()
            .amax((0, 1, 3, 4))
        )
        assert changed[3] > 0.01
        assert bool((changed[:3] > 1e-3).all()) is sees_others


def test_v1_normalises_across_frames(
    tiny_config: UNet3DConfig, tiny_weights: dict[str, Tensor]
) -> None:
    per_frame = build(
        tiny_config, tiny_weights, replace(V1, use_inflated_groupnorm=True)
    )(*inputs(tiny_config))
    across = build(tiny_config, tiny_weights, V1)(*inputs(tiny_config))
    assert (per_frame - across).abs().max() > 0.05
