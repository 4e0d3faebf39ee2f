"""What must be in order before a worker takes a job. RunPod runs these checks at start,
and replaces what fails.
"""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from .. import catalog
from ..engine import choose_device
from ..errors import AnimateDiffError, ConfigurationError
from ..fetch import assets
from ..settings import Settings
from ..video.clip import Video
from ..video.writers import write_video
from .logs import log_event
from .storage import S3Storage

Check = Callable[[], None]


def fitness_checks(settings: Settings) -> list[Check]:
    """The checks, by name. Each raises ConfigurationError that says what to do."""
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
    """A model and a motion module for it are here, and no .safetensors file of them is
    cut short.
    """
    models = settings.models_dir
    names = assets.installed_base_models(models)
    if not names:
        raise ConfigurationError(
            f"there is no model below {models.name}/ (ANIMATEDIFF_MODELS_DIR)"
        )
    motion = set(assets.installed_motion_modules(models))
    for name in names:
        wanted = catalog.BASE_MODELS[name]
        if not motion & set(wanted.motion_modules):
            raise ConfigurationError(
                f"model {name} is here, but none of its motion modules:"
                f" {', '.join(wanted.motion_modules)}"
            )
    for path in _installed_files(models, names):
        _check_length(path)


def _installed_files(models: Path, names: tuple[str, ...]) -> Iterator[Path]:
    for name in names:
        yield from sorted(
            (models / catalog.BASE_MODELS[name].folder).rglob("*.safetensors")
        )
    yield from sorted((models / "motion_modules").glob("*.safetensors"))


def _check_length(path: Path) -> None:
    """The library holds a .safetensors file's length against its header when it opens
    it, and reads no weights.
    """
    try:
        with safe_open(path, framework="np"):
            pass
    except (SafetensorError, OSError) as error:
        raise ConfigurationError(
            f"{path.name} is damaged or cut short: fetch it again"
        ) from error


def check_device(settings: Settings) -> None:
    """The device computes."""
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
    """A clip can be written, where finished files are written first."""
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
    """The bucket, if one is configured, answers to these credentials."""
    if settings.bucket is None:
        return
    try:
        S3Storage(settings.bucket).check_reachable()
    except AnimateDiffError as error:
        reason = error.details.get("reason", error.code)
        raise ConfigurationError(
            f"the bucket {settings.bucket.name} cannot be used: {reason}"
            f" (BUCKET_NAME, BUCKET_ENDPOINT_URL,"
            " BUCKET_ACCESS_KEY_ID, BUCKET_SECRET_ACCESS_KEY, BUCKET_REGION)"
        ) from error
