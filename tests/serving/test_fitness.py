"""The checks before the first job: everything in order, and each fault."""

import shutil
from pathlib import Path

import pytest
from pydantic import SecretStr

from animatediff.errors import ConfigurationError
from animatediff.serving import fitness
from animatediff.serving.fitness import (
    check_bucket,
    check_device,
    check_encoder,
    check_weights,
    fitness_checks,
)
from animatediff.settings import BucketSettings, Settings
from tests.queue.slow_bucket import SlowBucket


@pytest.fixture
def models(tmp_path: Path) -> Path:
    shutil.copytree(Settings().models_dir / "shapeworld", tmp_path / "shapeworld")
    return tmp_path


def test_an_installation_in_order_passes_every_check() -> None:
    checks = fitness_checks(Settings())
    assert [check.__name__ for check in checks] == [
        "check_weights",
        "check_device",
        "check_encoder",
        "check_bucket",
    ]
    for check in checks:
        check()


def test_an_empty_models_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="animatediff fetch") as caught:
        check_weights(Settings(models_dir=tmp_path))
    assert caught.value.message.startswith(f"there is no model below {tmp_path} (")


def test_no_models_folder(tmp_path: Path) -> None:
    missing = tmp_path / "models"
    with pytest.raises(ConfigurationError, match=f"there is no folder {missing} "):
        check_weights(Settings(models_dir=missing))


def test_a_model_without_its_motion_module(models: Path) -> None:
    for file in (models / "shapeworld").glob("motion_module_*.safetensors"):
        file.unlink()
    with pytest.raises(
        ConfigurationError, match="none of its motion modules: shapeworld_v3, "
    ):
        check_weights(Settings(models_dir=models))


@pytest.mark.parametrize(
    "keep",
    [0, 5, 2000, -1, None],
    ids=["empty", "no header", "header only", "short", "long"],
)
def test_a_weight_file_of_another_length(keep: int | None, models: Path) -> None:
    check_weights(Settings(models_dir=models))
    path = models / "shapeworld" / "vae" / "diffusion_pytorch_model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content + b"x" if keep is None else content[:keep])
    with pytest.raises(
        ConfigurationError,
        match="diffusion_pytorch_model.safetensors is damaged or cut short",
    ):
        check_weights(Settings(models_dir=models))


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(ConfigurationError, match="warp"):
        check_device(Settings(device="warp"))


def test_an_encoder_that_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ConfigurationError("no encoder")

    check_encoder(Settings())
    monkeypatch.setattr(fitness, "write_video", broken)
    with pytest.raises(ConfigurationError):
        check_encoder(Settings())


def test_a_bucket_whose_urls_do_not_open() -> None:
    """An upload alone shows too little: here files are stored, and their URLs lie."""
    with SlowBucket() as bucket:
        fit = Settings.from_env(bucket.environment)
        check_bucket(fit)
        url = bucket.environment["BUCKET_ENDPOINT_URL"]
        elsewhere = {"BUCKET_PUBLIC_BASE_URL": f"{url}/elsewhere"}
        with pytest.raises(ConfigurationError, match="HTTP 404; the URL of a stored"):
            check_bucket(Settings.from_env({**bucket.environment, **elsewhere}))


def test_a_bucket_that_does_not_answer() -> None:
    nowhere = BucketSettings(
        name="clips",
        access_key_id=SecretStr("key"),
        secret_access_key=SecretStr("hush"),
        endpoint_url="http://127.0.0.1:9",
        addressing_style="path",
    )
    with pytest.raises(
        ConfigurationError, match="the bucket clips cannot be used"
    ) as caught:
        check_bucket(Settings(bucket=nowhere))
    assert "hush" not in caught.value.message
    assert "127.0.0.1" not in caught.value.message
