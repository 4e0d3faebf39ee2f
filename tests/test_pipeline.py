from dataclasses import replace
from pathlib import Path

import pytest
import torch

from animatediff.catalog import SCHEDULERS
from animatediff.conditioning.encoders import encode_prompt
from animatediff.config import V3
from animatediff.errors import (
    AssetError,
    CheckpointError,
    InvalidRequest,
)
from animatediff.pipeline import AnimationPipeline
from animatediff.published import load_weights
from animatediff.sampling.inputs import AnimationInputs

pytestmark = pytest.mark.slow

SHAPEWORLD = Path(__file__).parent.parent / "models" / "shapeworld"
INPUTS = AnimationInputs(
    "a red circle",
    num_frames=4,
    width=64,
    height=64,
    num_inference_steps=3,
    guidance_scale=4.0,
    seeds=(7,),
)


def test_same_seed_same_video(shapeworld: AnimationPipeline) -> None:
    first, second = shapeworld(INPUTS), shapeworld(INPUTS)
    assert first.videos.shape == (1, 3, 4, 64, 64)
    assert torch.equal(first.videos, second.videos)
    assert not torch.equal(first.videos, shapeworld(replace(INPUTS, seeds=(8,))).videos)


@pytest.mark.parametrize("scheduler", ["ddim", "euler_a", "lcm"])
def test_seeds_make_the_same_videos_in_one_batch(
    scheduler: str, shapeworld: AnimationPipeline
) -> None:
    inputs = replace(INPUTS, scheduler=scheduler)
    together = shapeworld(replace(inputs, seeds=(7, 8))).videos
    alone = torch.cat(
        [shapeworld(replace(inputs, seeds=(seed,))).videos for seed in (7, 8)]
    )
    assert (together - alone).abs().max() < 1e-3


def test_single_frame_without_guidance_is_as_in_a_batch(
    shapeworld: AnimationPipeline,
) -> None:
    """Its middle block sees one position alone, a motion module's group norm there a
    single value of each group.
    """
    inputs = replace(INPUTS, num_frames=1, guidance_scale=1.0)
    together = shapeworld(replace(inputs, seeds=(7, 8))).videos
    assert (shapeworld(inputs).videos - together[:1]).abs().max() < 1e-3


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_runs(scheduler: str, shapeworld: AnimationPipeline) -> None:
    videos = shapeworld(replace(INPUTS, scheduler=scheduler)).videos
    assert videos.isfinite().all()
    assert videos.std() > 0.01


def test_one_frame_at_a_time_gives_the_same_pixels(
    shapeworld: AnimationPipeline,
) -> None:
    latents = shapeworld(INPUTS).latents
    results = []
    for chunk in (1, 3, 16):
        pipeline = AnimationPipeline(shapeworld.models, decode_chunk=chunk)
        results.append((pipeline.decode(latents), pipeline.decode_frames(latents)))
    for videos, frames in results[1:]:
        assert (videos - results[0][0]).abs().max() < 1e-5
        off = (
            frames.int() - results[0][1].int()
        ).abs()  # a batch of another size sums in another order
        assert off.max() <= 1
        assert off.float().mean() < 1e-3


def test_frames_are_the_video_in_bytes(shapeworld: AnimationPipeline) -> None:
    latents = shapeworld(INPUTS).latents
    frames = shapeworld.decode_frames(latents)
    assert frames.shape == (1, 4, 64, 64, 3)
    assert torch.equal(
        frames,
        (shapeworld.decode(latents) * 255)
        .round()
        .to(torch.uint8)
        .permute(0, 2, 3, 4, 1),
    )


@pytest.mark.parametrize(("scale", "videos"), [(1.0, 1), (0.0, 1), (1.5, 2)])
def test_no_unconditional_pass_without_guidance(
    scale: float, videos: int, shapeworld: AnimationPipeline
) -> None:
    batches = []
    handle = shapeworld.unet.conv_out.register_forward_hook(
        lambda _m, args, _o: batches.append(args[0].shape[0])
    )
    shapeworld(replace(INPUTS, guidance_scale=scale))
    handle.remove()
    assert batches == [4 * videos] * 3


def test_guidance_1_is_the_conditional_prediction(
    shapeworld: AnimationPipeline,
) -> None:
    near = shapeworld(replace(INPUTS, guidance_scale=1.0001)).latents
    assert (
        shapeworld(replace(INPUTS, guidance_scale=1.0)).latents - near
    ).abs().max() < 0.01


def test_negative_prompt_and_clip_skip_matter(shapeworld: AnimationPipeline) -> None:
    plain = shapeworld(INPUTS).latents
    for change in ({"negative_prompt": "a blue square"}, {"clip_skip": 1}):
        assert (
            shapeworld(replace(INPUTS, **change)).latents - plain
        ).abs().max() > 0.05


def test_clip_skip_ends_one_layer_earlier(shapeworld: AnimationPipeline) -> None:
    (text,) = shapeworld.texts.models
    encoder, tokenizer = text.encoder, text.tokenizer
    ids = tokenizer(
        "a red circle", padding="max_length", max_length=77, return_tensors="pt"
    ).input_ids
    with torch.inference_mode():
        hidden = encoder(ids, output_hidden_states=True).hidden_states
        expected = encoder.final_layer_norm(hidden[-2])
        last = encoder.final_layer_norm(hidden[-1])
    assert torch.allclose(
        encode_prompt(tokenizer, encoder, "a red circle", 1).embeds, expected
    )
    assert torch.allclose(
        encode_prompt(tokenizer, encoder, "a red circle", 0).embeds, last, atol=1e-6
    )
    with pytest.raises(InvalidRequest, match="clip_skip: got 2, allowed: 0 to 1"):
        encode_prompt(tokenizer, encoder, "a red circle", 2)


def test_long_prompt_is_cut_with_a_warning(shapeworld: AnimationPipeline) -> None:
    words = "red " * 80 + "zebra"
    condition = shapeworld.encode(replace(INPUTS, prompt=words))
    assert condition.embeds.shape[1] == 77
    (warning,) = condition.warnings
    assert warning.startswith("prompt is longer than the 77 tokens")
    assert warning.endswith("red zebra")
    assert shapeworld.encode(INPUTS).warnings == ()


def test_latents_go_in_and_out(shapeworld: AnimationPipeline) -> None:
    generator = torch.Generator().manual_seed(7)
    values = torch.randn(1, 4, 4, 8, 8, generator=generator)
    assert torch.equal(
        shapeworld(INPUTS, latents=values).videos, shapeworld(INPUTS).videos
    )
    with pytest.raises(InvalidRequest, match="latents"):
        shapeworld(INPUTS, latents=values[:, :, :2])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"width": 60}, "width"),
        ({"height": 70}, "height"),
        ({"num_frames": 33}, "num_frames"),
        ({"num_frames": 0}, "num_frames"),
    ],
)
def test_sizes_that_the_model_cannot_do(
    change: dict, field: str, shapeworld: AnimationPipeline
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        shapeworld(replace(INPUTS, **change))
    assert caught.value.details["field"] == field


def test_32_frames_and_odd_latents(shapeworld: AnimationPipeline) -> None:
    videos = shapeworld(
        replace(INPUTS, num_frames=32, width=72, height=88, num_inference_steps=1)
    ).videos
    assert videos.shape == (1, 3, 32, 88, 72)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_shows_the_same(
    dtype: torch.dtype, shapeworld: AnimationPipeline
) -> None:
    pipeline = AnimationPipeline.from_pretrained(SHAPEWORLD, dtype=dtype)
    load_weights(pipeline, SHAPEWORLD / "motion_module_v3.safetensors", "v3")
    got = pipeline(INPUTS)
    assert got.latents.dtype == torch.float32
    assert (got.videos - shapeworld(INPUTS).videos).abs().mean() < (
        0.01 if dtype == torch.float16 else 0.05
    )


def test_load_weights_keeps_what_was_there_if_it_fails(
    shapeworld: AnimationPipeline, tmp_path: Path
) -> None:
    before = shapeworld(INPUTS).latents
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    for path, error in (
        (tmp_path / "bad.safetensors", CheckpointError),
        (tmp_path / "none.ckpt", AssetError),
    ):
        with pytest.raises(error):
            load_weights(shapeworld, path, "v3")
    assert torch.equal(shapeworld(INPUTS).latents, before)
    assert (
        load_weights(
            shapeworld, SHAPEWORLD / "motion_module_v3.safetensors"
        ).unet.motion
        == V3
    )
    assert load_weights(shapeworld) is shapeworld


@pytest.mark.parametrize(
    "missing",
    [
        "unet/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "tokenizer/vocab.json",
    ],
)
def test_incomplete_folder_names_what_is_missing(missing: str, tmp_path: Path) -> None:
    for path in SHAPEWORLD.rglob("*.*"):
        name = path.relative_to(SHAPEWORLD).as_posix()
        if name != missing:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).symlink_to(path)
    with pytest.raises(AssetError, match=missing.split("/")[0]):
        AnimationPipeline.from_pretrained(tmp_path)


def test_folder_with_other_weights_is_refused(tmp_path: Path, golden: Path) -> None:
    for path in SHAPEWORLD.rglob("*.*"):
        name = path.relative_to(SHAPEWORLD).as_posix()
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(
            golden / "common" / "unet2d.safetensors"
            if name.startswith("unet/diff")
            else path
        )
    with pytest.raises(CheckpointError, match=r"^unet/.*safetensors does not fit"):
        AnimationPipeline.from_pretrained(tmp_path)
