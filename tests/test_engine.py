import shutil
from pathlib import Path

import pytest
import torch

from animatediff import assets
from animatediff.engine import Engine
from animatediff.errors import AssetError, CheckpointError, ConfigurationError
from animatediff.request import GenerationRequest
from animatediff.settings import Settings

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


def test_embedded_family_is_the_default_when_nothing_else_is_there(tmp_path: Path) -> None:
    (tmp_path / "shapeworld").symlink_to(MODELS / "shapeworld")
    assert Engine(Settings(models_dir=tmp_path)).default_model() == "shapeworld"
    (tmp_path / "stable-diffusion-v1-5" / "unet").mkdir(parents=True)
    (tmp_path / "stable-diffusion-v1-5" / "unet" / "config.json").write_text("{}")
    assert Engine(Settings(models_dir=tmp_path)).default_model() == "sd15"
    assert Engine(Settings(models_dir=tmp_path, default_model="shapeworld")).default_model() == "shapeworld"


def test_empty_models_folder(tmp_path: Path) -> None:
    engine = Engine(Settings(models_dir=tmp_path))
    with pytest.raises(AssetError, match="no model is installed"):
        engine.prepare(GenerationRequest("x"))
    with pytest.raises(AssetError, match=r"stable-diffusion-v1-5 in diffusers' layout"):
        engine.prepare(GenerationRequest("x", model="sd15"))


def test_damaged_motion_module_is_told_and_a_mended_one_works(tmp_path: Path) -> None:
    family = tmp_path / "shapeworld"
    shutil.copytree(MODELS / "shapeworld", family)
    good = (family / "motion_module_v3.safetensors").read_bytes()
    (family / "motion_module_v3.safetensors").write_bytes(good[:1000])
    engine = Engine(Settings(models_dir=tmp_path))
    key = engine.prepare(GenerationRequest("x", model="shapeworld")).stack
    with pytest.raises(CheckpointError, match="motion_module_v3"):
        engine.configure(key)
    assert engine.stack is None
    (family / "motion_module_v3.safetensors").write_bytes(good)
    key = engine.prepare(GenerationRequest("x", model="shapeworld")).stack
    assert engine.configure(key).unet.motion is not None
    assert engine.stack == key


def test_content_hash_is_of_the_content(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(MODELS / "shapeworld", copy)
    before = assets.content_sha256(MODELS / "shapeworld")
    assert assets.content_sha256(copy) == before
    (copy / "README.md").write_text("other words")
    assert assets.content_sha256(copy) == before
    config = copy / "unet" / "config.json"
    config.write_text(config.read_text() + " ")
    assert assets.content_sha256(copy) != before
