from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

from animatediff import (
    AnimationInputs,
    AnimationPipeline,
    SparseControl,
    SparseControlNetModel,
    control_images,
)
from animatediff.config import SPARSECTRL_RGB, SPARSECTRL_SCRIBBLE
from animatediff.controls.base import Run
from animatediff.errors import InvalidRequest

pytestmark = pytest.mark.slow

INPUTS = AnimationInputs(
    "a red circle",
    num_frames=4,
    width=64,
    height=64,
    num_inference_steps=4,
    guidance_scale=4.0,
    seeds=(7,),
)


def branch(pipeline: AnimationPipeline, kind: Any) -> SparseControlNetModel:
    """Return a branch whose random output layers change the clip."""
    torch.manual_seed(3)
    model = (
        SparseControlNetModel(pipeline.unet.config, kind).eval().requires_grad_(False)
    )
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return model


@pytest.fixture(
    scope="module",
    params=[SPARSECTRL_RGB, SPARSECTRL_SCRIBBLE],
    ids=["rgb", "scribble"],
)
def control(
    request: pytest.FixtureRequest, shapeworld: AnimationPipeline
) -> SparseControl:
    model = branch(shapeworld, request.param)
    picture = Image.radial_gradient("L")
    return SparseControl(
        model, control_images(model, shapeworld.vae, [picture], 64, 64), (-1,)
    )


def latents(
    pipeline: AnimationPipeline, inputs: AnimationInputs, *controls: SparseControl
) -> torch.Tensor:
    return pipeline.denoise(inputs, pipeline.encode(inputs, controls))


def test_a_branch_steers_and_leaves_nothing_behind(
    shapeworld: AnimationPipeline, control: SparseControl
) -> None:
    before = latents(shapeworld, INPUTS)
    assert (latents(shapeworld, INPUTS, control) - before).abs().max() > 0.01
    assert torch.equal(latents(shapeworld, INPUTS), before)


def test_branches_add_up(shapeworld: AnimationPipeline, control: SparseControl) -> None:
    whole = latents(shapeworld, INPUTS, control)
    parts = latents(
        shapeworld,
        INPUTS,
        replace(control, strength=0.25),
        replace(control, strength=0.75),
    )
    assert (whole - parts).abs().max() < 1e-3


def test_a_branch_acts_between_start_and_end(
    shapeworld: AnimationPipeline, control: SparseControl
) -> None:
    calls = []
    handle = control.model.conv_in.register_forward_hook(
        lambda *_: calls.append("conv_in")
    )
    mid = control.model.mid_block.register_forward_hook(lambda *_: calls.append("step"))
    free = latents(shapeworld, INPUTS)
    assert torch.equal(latents(shapeworld, INPUTS, replace(control, start=1.0)), free)
    assert torch.equal(
        latents(shapeworld, INPUTS, replace(control, strength=0.0)), free
    )
    assert calls == []
    half = latents(shapeworld, INPUTS, replace(control, end=0.5))
    assert calls == [
        "step",
        "step",
    ]  # its noisy input is zero: conv_in has nothing to compute
    assert not torch.equal(half, free)
    assert not torch.equal(half, latents(shapeworld, INPUTS, control))
    handle.remove()
    mid.remove()


def test_the_condition_is_embedded_once(
    shapeworld: AnimationPipeline, control: SparseControl
) -> None:
    calls = []
    handle = control.model.controlnet_cond_embedding.register_forward_hook(
        lambda *_: calls.append(1)
    )
    latents(shapeworld, INPUTS, control)
    handle.remove()
    assert len(calls) == 1


def test_a_branch_follows_the_frames_that_it_is_asked_for(
    shapeworld: AnimationPipeline, control: SparseControl
) -> None:
    """A window may have as many frames as the clip, and begin elsewhere."""
    embeds = shapeworld.encode(replace(INPUTS, guidance_scale=1.0)).embeds
    ready = control.prepare(Run(embeds, torch.tensor([500]), 4, 64, 64, 8))
    sample, order = torch.zeros(1, 4, 4, 8, 8), [3, 0, 1, 2]
    shifted = replace(ready, embedded=ready.embedded[order])
    expected = shifted.residuals(sample, 0, range(4))
    window = ready.residuals(sample, 0, order)
    assert expected is not None
    assert window is not None
    assert torch.equal(window.mid, expected.mid)


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_seeds_share_a_branch(
    guidance_scale: float, shapeworld: AnimationPipeline, control: SparseControl
) -> None:
    inputs = replace(INPUTS, guidance_scale=guidance_scale)
    batches = []
    handle = control.model.mid_block.register_forward_hook(
        lambda _m, args, _o: batches.append(args[0].shape[0])
    )
    together = latents(shapeworld, replace(inputs, seeds=(7, 8)), control)
    handle.remove()
    alone = torch.cat(
        [
            latents(shapeworld, replace(inputs, seeds=(seed,)), control)
            for seed in (7, 8)
        ]
    )
    assert (together - alone).abs().max() < 1e-3
    assert batches == [4 * (2 if guidance_scale > 1 else 1)] * 4


def test_encoding_a_picture_has_no_chance_in_it(shapeworld: AnimationPipeline) -> None:
    model = branch(shapeworld, SPARSECTRL_RGB)
    picture = Image.linear_gradient("L")
    first, second = (
        control_images(model, shapeworld.vae, [picture, picture], 64, 48)
        for _ in range(2)
    )
    assert first.shape == (1, 4, 2, 6, 8)
    assert torch.equal(first, second)


def test_a_uniform_picture_stays_finite(
    shapeworld: AnimationPipeline, control: SparseControl
) -> None:
    images = control_images(
        control.model,
        shapeworld.vae,
        [Image.new("L", (64, 64), 200)],
        64,
        64,
        normalize=True,
    )
    assert images.isfinite().all()
    assert latents(shapeworld, INPUTS, replace(control, images=images)).isfinite().all()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"frame_indices": (4,)}, "frame_indices"),
        ({"frame_indices": (0, 1)}, "frame_indices"),
        ({"start": -0.1}, "start"),
        ({"end": 1.5}, "end"),
        ({"end": float("nan")}, "end"),
        ({"strength": float("nan")}, "strength"),
        ({"images": torch.zeros(1, 4, 1, 5, 8)}, "images"),
        ({"images": torch.zeros(1, 7, 1, 8, 8)}, "images"),
        ({"images": torch.zeros(4, 1, 8, 8)}, "images"),
    ],
)
def test_controls_that_cannot_be(
    change: dict[str, Any],
    field: str,
    shapeworld: AnimationPipeline,
    control: SparseControl,
) -> None:
    with pytest.raises(InvalidRequest, match=rf"controls\.{field}"):
        latents(shapeworld, INPUTS, replace(control, **change))
