"""The checks before a worker takes its first job.

RunPod runs them at start, and replaces a worker that fails one.
"""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from .. import catalog
from ..device import choose_device
from ..errors import AnimateDiffError, ConfigurationError
from ..fetch.installed import installed_base_models, installed_motion_modules
from ..settings import Settings
from ..video.clip import Video
from ..video.writers import write_video
from .logs import log_event
from .storage import S3Storage

Check = Callable[[], None]


def fitness_checks(settings: Settings) -> list[Check]:
    """Return all checks. Each raises ConfigurationError with what to do."""
    checks = {
        "weights": check_weights,
        "device": check_device,
        "encoder": check_encoder,
        "bucket": check_bucket,
    }
    return [_named(name, partial(check, settings)) for name, check in checks.items()]


def _named(name: str, check: Check) -> Check:
    def run() -> None:
        try:
            check()
        except AnimateDiffError as error:
            log_event("unfit", check=name, error=error.to_dict())
            raise
        log_event("fit", check=name)

    run.__name__ = f"check_{name}"
    return run


def check_weights(settings: Settings) -> None:
    """Check that a model and its motion module are installed, and their files whole."""
    models = settings.models_dir
    names = installed_base_models(models)
    if not names:
        state = "there is no model below" if models.is_dir() else "there is no folder"
        raise ConfigurationError(
            f"{state} {models} (ANIMATEDIFF_MODELS_DIR); `animatediff fetch sd15-v3`"
            " downloads a model"
        )
    for name in names:
        _check_motion_module(models, name)
    for path in _installed_files(models, names):
        _check_length(path)


def _check_motion_module(models: Path, name: str) -> None:
    modules = catalog.BASE_MODELS[name].motion_modules
    if set(modules).isdisjoint(installed_motion_modules(models)):
        raise ConfigurationError(
            f"model {name} is installed, but none of its motion modules:"
            f" {', '.join(modules)}"
        )


def _installed_files(models: Path, names: tuple[str, ...]) -> Iterator[Path]:
    for name in names:
        yield from sorted(
            (models / catalog.BASE_MODELS[name].folder).rglob("*.safetensors")
        )
    yield from sorted((models / "motion_modules").glob("*.safetensors"))


def _check_length(path: Path) -> None:
    """Open the file: the library compares its length with its header.

    No weights are read.
    """
    try:
        with safe_open(path, framework="np"):
            pass
    except (SafetensorError, OSError) as error:
        raise ConfigurationError(
            f"{path.name} is damaged or cut short: download it again"
        ) from error


def check_device(settings: Settings) -> None:
    """Check that the device computes."""
    import torch

    device = choose_device(settings.device)
    try:
        total = torch.ones(64, 64, device=device).sum().item()
    except RuntimeError as error:
        raise ConfigurationError(
            f"the device {device} fails: {str(error).splitlines()[0]}"
        ) from error
    if total != 64 * 64:
        raise ConfigurationError(
            f"the device {device} computes wrongly: a sum of 4096 ones is {total}"
        )


def check_encoder(settings: Settings) -> None:
    """Check that a clip can be written in the folder of temporary files."""
    video = Video(np.zeros((2, 64, 64, 3), np.uint8), 8)
    with tempfile.TemporaryDirectory(prefix="animatediff-") as folder:
        write_video(
            video,
            Path(folder) / "clip.mp4",
            format="mp4",
            quality=settings.video_quality,
            metadata={},
        )


def check_bucket(settings: Settings) -> None:
    """Check that the bucket, if one is configured, takes a file that then opens."""
    if settings.bucket is None:
        return
    try:
        S3Storage(settings.bucket).check_reachable()
    except AnimateDiffError as error:
        reason = error.details.get("reason", error.code)
        region = error.details.get("region")
        place = f", it is in the region {region}" if region else ""
        raise ConfigurationError(
            f"the bucket {settings.bucket.name} cannot be used: {reason}{place};"
            f" {error.message} (BUCKET_NAME, BUCKET_ENDPOINT_URL, BUCKET_ACCESS_KEY_ID,"
            " BUCKET_SECRET_ACCESS_KEY, BUCKET_SESSION_TOKEN, BUCKET_REGION)"
        ) from error
