"""What made a clip, as plain values: for the job's output, and for the file's own
metadata.
"""

import hashlib
from dataclasses import asdict
from typing import Any

from .engine import Generated
from .fetch.references import is_picture_path
from .job.fields import echo


def metadata_of(generated: Generated) -> dict[str, Any]:
    """What the file itself says about how it was made."""
    request = generated.request.model_dump()
    for control in request["controls"]:
        control["images"] = [_named(image) for image in control["images"]]
    return {
        "software": "animatediff-serverless",
        "request": request,
        **weights_of(generated),
    }


def _named(image: str) -> str:
    """A picture as metadata name it: its path, its URL without the query, or the hash
    of the base64 that was sent.
    """
    if image.startswith("https://"):
        return image.partition("?")[0]
    return (
        image
        if is_picture_path(image)
        else f"sha256:{hashlib.sha256(image.encode()).hexdigest()}"
    )


def weights_of(generated: Generated) -> dict[str, Any]:
    """All weights that took part, each with its hash and how it was used."""
    request = generated.request
    loras = zip(generated.loras, request.loras, strict=True)
    embeddings = zip(generated.embeddings, request.embeddings, strict=True)
    controls = zip(generated.controls, request.controls, strict=True)
    return {
        "model": asdict(generated.model),
        "motion_module": asdict(generated.motion_module),
        "dreambooth": asdict(generated.dreambooth) if generated.dreambooth else None,
        "vae": asdict(generated.vae) if generated.vae else None,
        "loras": [{**asdict(loaded), **echo(reference)} for loaded, reference in loras],
        "embeddings": [
            {**asdict(loaded), **echo(reference)} for loaded, reference in embeddings
        ],
        "controls": [
            {**asdict(loaded), **echo(reference)} for loaded, reference in controls
        ],
    }
