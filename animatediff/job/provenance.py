"""The origin of a clip as plain values, for the job's output and file metadata."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..fetch.references import is_picture_path, is_url
from ..shown import shown_values, without_secrets
from .clip import Clip, ControlFile, EmbeddingFile, LoraFile
from .fields import FILE_METADATA, echo, private_fields
from .result import Generated, Loaded


def metadata_of(generated: Generated, most: str = "full") -> dict[str, Any]:
    """Return the metadata that the file carries: the job, and the weights' hashes.

    They are what the job asks for, and at most what the service allows, ``most``: see
    ``fields.FILE_METADATA``.
    """
    level = min(generated.clip.file_metadata, most, key=list(FILE_METADATA).index)
    if level == "none":
        return {}
    request = generated.clip.model_dump()
    private = private_fields(Clip)
    for control in request["controls"]:
        control["images"] = [_shown_picture(image) for image in control["images"]]
    shown = {
        name: value if name in private else shown_values(value)
        for name, value in request.items()
        if level == "full" or name not in private
    }
    return {
        "software": "animatediff-serverless",
        "request": shown,
        **weights_of(generated),
    }


def _shown_picture(image: str) -> str:
    """Return a picture's path or URL without secrets, or its base64 text's hash."""
    if is_url(image) or is_picture_path(image):
        return without_secrets(image)
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
