"""What made a clip, as plain values: for the job's output and the file's metadata."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..fetch.references import is_picture_path
from .clip import ControlFile, EmbeddingFile, LoraFile
from .fields import echo
from .result import Generated, Loaded


def metadata_of(generated: Generated) -> dict[str, Any]:
    """Return the metadata that the file carries: the job, and the weights' hashes."""
    request = generated.clip.model_dump()
    for control in request["controls"]:
        control["images"] = [_shown_picture(image) for image in control["images"]]
    return {
        "software": "animatediff-serverless",
        "request": request,
        **weights_of(generated),
    }


def _shown_picture(image: str) -> str:
    """Return a picture's path, its URL without query, or its base64 text's hash."""
    if image.startswith("https://"):
        return image.partition("?")[0]
    if is_picture_path(image):
        return image
    return f"sha256:{hashlib.sha256(image.encode()).hexdigest()}"


def weights_of(generated: Generated) -> dict[str, Any]:
    """Return all weights of a clip, each with its hash and its use."""
    clip, files = generated.clip, generated.files
    return {
        "model": asdict(generated.model),
        "motion_module": asdict(files.motion_module),
        "dreambooth": files.dreambooth and asdict(files.dreambooth),
        "vae": files.vae and asdict(files.vae),
        "loras": _parts(files.loras, clip.loras),
        "embeddings": _parts(files.embeddings, clip.embeddings),
        "controls": _parts(files.controls, clip.controls),
    }


def _parts(
    loaded: Sequence[Loaded],
    declared: Sequence[LoraFile | EmbeddingFile | ControlFile],
) -> list[dict[str, Any]]:
    pairs = zip(loaded, declared, strict=True)
    return [{**asdict(part), **echo(file)} for part, file in pairs]
