"""The origin of a clip as plain values, for the job's output and file metadata."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..fetch.references import is_picture_path, is_url
from ..shown import shown_values, without_secrets
from .clip import Clip, ControlFile, EmbeddingFile, LoraFile
from .fields import FILE_METADATA, echo, private_fields
from .result import Generated, Loaded

SOFTWARE = "animatediff-serverless"
"""The name of this project in a file's metadata."""
PICTURE_HASH = "sha256:"
"""Begins the place of a picture that a job brought as base64."""


def metadata_of(generated: Generated, most: str = "full") -> dict[str, Any]:
    """Return the metadata that the file carries: the job, and the weights' hashes.

    They are what the job asks for, and at most what the service allows, ``most``: see
    ``fields.FILE_METADATA``.
    """
    level = min(generated.clip.file_metadata, most, key=list(FILE_METADATA).index)
    if level == "none":
        return {}
    request = generated.clip.model_dump()
    for control in request["controls"]:
        control["images"] = [_shown_picture(image) for image in control["images"]]
    private = frozenset[str]() if level == "full" else private_fields(Clip)
    kept = {name: value for name, value in request.items() if name not in private}
    return {
        "software": SOFTWARE,
        "request": shown_fields(kept, private_fields(Clip)),
        **weights_of(generated),
    }


def shown_fields(
    request: Mapping[str, Any], prompts: Collection[str]
) -> dict[str, Any]:
    """Return the fields of a job without secrets of URLs.

    The fields named by ``prompts`` are shown as they are.
    """
    return {
        name: value if name in prompts else shown_values(value)
        for name, value in request.items()
    }


def _shown_picture(image: str) -> str:
    """Return a picture's path or URL without secrets, or its base64 text's hash."""
    if is_url(image) or is_picture_path(image):
        return without_secrets(image)
    return f"{PICTURE_HASH}{hashlib.sha256(image.encode()).hexdigest()}"


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
