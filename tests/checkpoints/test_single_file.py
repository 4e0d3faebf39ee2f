from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from animatediff.checkpoints.single_file import read_single_file
from animatediff.errors import CheckpointError
from animatediff.pipeline import AnimationPipeline
from scripts.golden_cases import Golden


@pytest.fixture(scope="module")
def pipeline(golden: Path) -> AnimationPipeline:
    return Golden(golden, torch.float32).pipeline


@pytest.fixture(scope="module")
def weights(golden: Path) -> dict[str, torch.Tensor]:
    return load_file(golden / "loading" / "dreambooth_ldm.safetensors")


def read(pipeline: AnimationPipeline, path: Path) -> dict[tuple[str, str], torch.Tensor]:
    return read_single_file(path, pipeline.patcher.shapes(), pipeline.unet.config.layers_per_block, pipeline.vae.config)


def test_every_weight_is_found(pipeline: AnimationPipeline, golden: Path) -> None:
    found = read(pipeline, golden / "loading" / "dreambooth_ldm.safetensors")
    assert found.keys() == pipeline.patcher.shapes().keys()


def test_a_pickle_around_a_state_dict_is_the_same(
    pipeline: AnimationPipeline, weights: dict[str, torch.Tensor], golden: Path, tmp_path: Path
) -> None:
    torch.save({"state_dict": weights, "global_step": 3}, tmp_path / "x.ckpt")
    ours, theirs = (
        read(pipeline, tmp_path / "x.ckpt"),
        read(pipeline, golden / "loading" / "dreambooth_ldm.safetensors"),
    )
    assert all(torch.equal(ours[address], theirs[address]) for address in theirs)


def test_parts_may_be_absent(pipeline: AnimationPipeline, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file({k: v for k, v in weights.items() if k.startswith("model.")}, tmp_path / "x.safetensors")
    assert {model for model, _ in read(pipeline, tmp_path / "x.safetensors")} == {"unet"}
    said = pipeline.configure_weights(None, tmp_path / "x.safetensors", ())
    assert [text.split(" has no ")[1].split(":")[0] for text in said] == ["vae", "text_encoder"]
    pipeline.patcher.restore()


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."])
def test_a_part_must_be_whole(
    prefix: str, pipeline: AnimationPipeline, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    for harm in ("lacking", "other shape"):
        key = next(key for key in sorted(weights) if key.startswith(prefix) and key.endswith("norm1.weight"))
        changed = {k: v for k, v in weights.items() if k != key}
        if harm == "other shape":
            changed[key] = torch.zeros(3)
        save_file(changed, tmp_path / "x.safetensors")
        with pytest.raises(CheckpointError):
            read(pipeline, tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("conditioner.embedders.0.transformer.x", "SDXL"),
        ("cond_stage_model.model.x", "SD 2"),
        ("lora_unet_x.lora_down.weight", "not an SD 1.5 single file"),
    ],
)
def test_other_models_are_named(key: str, message: str, pipeline: AnimationPipeline, tmp_path: Path) -> None:
    save_file({key: torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=message):
        read(pipeline, tmp_path / "x.safetensors")
