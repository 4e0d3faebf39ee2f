import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from animatediff.checkpoints.diffusers_folder import read_memory_model
from animatediff.checkpoints.files import count_values
from animatediff.engine import Attempt, Engine, Frames, make_frames
from animatediff.errors import (
    AssetError,
    CheckpointError,
    ConfigurationError,
    InvalidRequest,
)
from animatediff.fetch.assets import Assets
from animatediff.fetch.hashes import content_sha256
from animatediff.job.clip import GenerationRequest, LoraFile
from animatediff.memory import Work
from animatediff.settings import Settings
from animatediff.warm_models import JobModels

MODELS = Settings().models_dir


def test_device_and_dtype_follow_the_settings() -> None:
    engine = Engine(Settings(device="cpu", dtype="bfloat16"))
    assert (engine.device.type, engine.dtype) == ("cpu", torch.bfloat16)
    assert Engine(Settings(device="cpu")).dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (Settings(device="warp"), "ANIMATEDIFF_DEVICE"),
        (Settings(default_model="sdxl"), "ANIMATEDIFF_DEFAULT_MODEL"),
    ],
)
def test_settings_that_cannot_work(settings: Settings, name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        Engine(settings)


def test_embedded_family_is_the_default_when_nothing_else_is_there(
    tmp_path: Path,
) -> None:
    (tmp_path / "shapeworld").symlink_to(MODELS / "shapeworld")
    assert Engine(Settings(models_dir=tmp_path)).default_model() == "shapeworld"
    (tmp_path / "stable-diffusion-v1-5" / "unet").mkdir(parents=True)
    (tmp_path / "stable-diffusion-v1-5" / "unet" / "config.json").write_text("{}")
    assert Engine(Settings(models_dir=tmp_path)).default_model() == "sd15"
    assert (
        Engine(
            Settings(models_dir=tmp_path, default_model="shapeworld")
        ).default_model()
        == "shapeworld"
    )


def test_empty_models_folder(tmp_path: Path) -> None:
    engine = Engine(Settings(models_dir=tmp_path))
    with pytest.raises(AssetError, match="no model is installed"):
        engine.prepare(GenerationRequest(prompt="x"))
    with pytest.raises(
        AssetError, match="stable-diffusion-v1-5 below the models folder"
    ):
        engine.prepare(GenerationRequest(prompt="x", model="sd15"))


@pytest.mark.parametrize(("device", "steps"), [("cuda", [1]), ("cpu", [])])
def test_a_gpu_runs_one_step_before_the_first_job(
    device: str, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(Settings(device="cpu", default_model="shapeworld"))
    default = engine.resolve(GenerationRequest(prompt=""))
    sizes: list[tuple[int, int, int]] = []
    taken: list[int] = []

    def take(_models: JobModels, attempt: Attempt, _chunk: int) -> Frames:
        clip = attempt.job.clip
        taken.append(clip.num_inference_steps)
        sizes.append((clip.num_frames, clip.width, clip.height))
        return Frames(torch.empty(0), ())

    monkeypatch.setattr("animatediff.engine.make_frames", take)
    monkeypatch.setattr("animatediff.engine.device_room", lambda *_: None)
    engine.device = torch.device(device)
    engine.warm()
    assert engine.models.stack is not None
    assert taken == steps
    expected = (default.num_frames, default.width, default.height)
    assert sizes == [expected] * len(steps)


def test_damaged_motion_module_is_told_and_a_mended_one_works(tmp_path: Path) -> None:
    family = tmp_path / "shapeworld"
    shutil.copytree(MODELS / "shapeworld", family)
    good = (family / "motion_module_v3.safetensors").read_bytes()
    (family / "motion_module_v3.safetensors").write_bytes(good[:1000])
    engine = Engine(Settings(models_dir=tmp_path))
    key = engine.prepare(GenerationRequest(prompt="x", model="shapeworld")).stack
    with pytest.raises(CheckpointError, match="^shapeworld_v3 cannot be read"):
        engine.configure(key)
    assert engine.models.stack is None
    (family / "motion_module_v3.safetensors").write_bytes(good)
    key = engine.prepare(GenerationRequest(prompt="x", model="shapeworld")).stack
    assert engine.configure(key).unet.motion is not None
    assert engine.models.stack == key


def shapeworld_needs(num_frames: int = 8) -> tuple[int, int]:
    """Bytes, at once and lean, of a clip of 128x128 with 2 frames decoded at once."""
    model = read_memory_model(MODELS / "shapeworld", torch.float32)
    motion = count_values(MODELS / "shapeworld" / "motion_module_v3.safetensors")
    model = replace(model, weight_bytes=model.weight_bytes + 4 * motion)
    work = Work(num_frames, 128, 128)
    return model.needed(work, 2), model.needed_lean(work)


def test_memory_model_counts_the_weights_that_are_loaded() -> None:
    engine = Engine(Settings(device="cpu"))
    pipeline = engine.configure(
        engine.prepare(GenerationRequest(prompt="x", model="shapeworld")).stack
    )
    model = read_memory_model(MODELS / "shapeworld", torch.float32)
    motion = count_values(MODELS / "shapeworld" / "motion_module_v3.safetensors")
    assert model.weight_bytes + 4 * motion == pytest.approx(
        pipeline.weights.device_bytes, rel=0.01
    )


def test_job_that_cannot_fit_is_refused_before_anything_is_fetched(
    tmp_path: Path,
) -> None:
    _, lean = shapeworld_needs(12)
    engine = Engine(
        Settings(device="cpu", device_memory_bytes=lean - 1, cache_dir=tmp_path)
    )
    request = GenerationRequest(
        prompt="x", model="shapeworld", num_frames=12, width=128, height=128
    )
    lora = LoraFile(path="https://127.0.0.1:9/style.safetensors")
    with pytest.raises(
        InvalidRequest, match=r"up to 120x120 at 12 frames, up to 11 frames at 128x128"
    ):
        engine.prepare(request.model_copy(update={"loras": (lora,)}))
    engine.prepare(request.model_copy(update={"width": 120, "height": 120}))


@pytest.mark.slow
def test_job_that_fits_only_in_lean_ways_gets_them_at_first(
    caplog: pytest.LogCaptureFixture,
) -> None:
    at_once, lean = shapeworld_needs()
    request = GenerationRequest(
        prompt="x",
        model="shapeworld",
        num_frames=8,
        width=128,
        height=128,
        num_inference_steps=1,
        seed=1,
    )
    made = []
    for room in (lean, at_once + 10**6):  # the positional tables are in no file
        engine = Engine(
            Settings(device="cpu", device_memory_bytes=room, vae_decode_chunk=2)
        )
        made.append(engine.generate(engine.prepare(request)))
    message = [
        any("one by one" in warning for warning in clip.warnings) for clip in made
    ]
    assert message == [True, False]
    assert not [
        record for record in caplog.records if "out of memory" in record.message
    ]
    one, other = (clip.video.frames.astype(int) for clip in made)
    assert abs(one - other).max() <= 1  # batches of another size round differently


@pytest.mark.slow
@pytest.mark.parametrize(("copies", "lean"), [([True], False), ([False, False], True)])
def test_copies_of_weights_give_way_before_a_lean_attempt(
    copies: list[bool], lean: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(Settings(device="cpu"))
    request = GenerationRequest(
        prompt="x", model="shapeworld", num_frames=2, num_inference_steps=1
    )
    failures = iter([torch.OutOfMemoryError("injected")])

    def full_at_first(models: JobModels, attempt: Attempt, chunk: int) -> Frames:
        for failure in failures:
            raise failure
        return make_frames(models, attempt, chunk)

    monkeypatch.setattr("animatediff.engine.make_frames", full_at_first)
    monkeypatch.setattr(engine.models, "move_copies_to_host", lambda: copies.pop(0))
    clip = engine.generate(engine.prepare(request))
    assert any("one by one" in warning for warning in clip.warnings) == lean


def test_content_hash_is_of_the_content(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(MODELS / "shapeworld", copy)
    before = content_sha256(MODELS / "shapeworld")
    assert content_sha256(copy) == before
    (copy / "README.md").write_text("other words")
    assert content_sha256(copy) == before
    config = copy / "unet" / "config.json"
    config.write_text(config.read_text() + " ")
    assert content_sha256(copy) != before


@pytest.mark.slow
def test_a_base_model_that_is_not_loaded_is_read_ahead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A slow disk then holds up the job, and not the device."""
    engine, read = Engine(Settings(default_model="shapeworld")), list[str]()
    monkeypatch.setattr(
        Assets, "read_ahead", lambda _self, file, _deadline: read.append(file.name)
    )
    request = GenerationRequest(prompt="a red circle", num_frames=1)
    job = engine.prepare(request)
    assert {name.split("/")[0] for name in read} >= {"unet", "vae", "text_encoder"}
    engine.configure(job.stack)
    read.clear()
    engine.prepare(request)
    assert [name for name in read if name.startswith("unet")] == []
