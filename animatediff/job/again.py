"""The way back: from a clip's file to the job that makes the clip again."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..errors import EncodeError
from ..shown import shown_values
from ..video import read_metadata
from .clip import Clip, ControlFile, GenerationRequest
from .fields import private_fields
from .provenance import PICTURE_HASH, SOFTWARE, shown_fields
from .validation import validated


@dataclass(frozen=True)
class JobAgain:
    """The job that makes a clip again, as a client sends it.

    ``gaps`` are sentences about what the file does not hold: the job is not complete.
    """

    fields: Mapping[str, Any]
    gaps: tuple[str, ...]


def read_settings(path: Path) -> dict[str, Any]:
    """Return the metadata of a clip's file, as ``metadata_of`` made them.

    No secret of a URL is in them, whoever wrote the file. Raises EncodeError for a clip
    of someone else, for one that was to tell nothing, and for a file that cannot be
    read.
    """
    try:
        metadata = read_metadata(path)
    except EncodeError as error:
        raise EncodeError(f"{path.name} holds no settings: {error.message}") from error
    request = metadata.get("request")
    if metadata.get("software") != SOFTWARE or not isinstance(request, dict):
        raise EncodeError(f"{path.name} holds no settings of a job")
    fields = shown_fields(cast(dict[str, Any], request), private_fields(Clip))
    return {**shown_values(metadata), "request": fields}


def job_again(settings: Mapping[str, Any]) -> JobAgain:
    """Return the job that makes the clip with these ``settings`` again.

    Raises InvalidRequest for a field that this version does not know, or not so.
    """
    request = settings["request"]
    fields = {name: value for name, value in request.items() if value is not None}
    untold = [name for name in Clip.model_fields if name not in request]
    hidden = [name for name in untold if name in private_fields(Clip)]
    job = validated(GenerationRequest, {**dict.fromkeys(hidden, ""), **fields})
    lost = [f"{name}: the file does not tell it" for name in hidden]
    return JobAgain(fields, (*lost, *_lost_pictures(job.controls)))


def _lost_pictures(controls: Sequence[ControlFile]) -> Iterator[str]:
    for i, control in enumerate(controls):
        for j, image in enumerate(control.images):
            if image.startswith(PICTURE_HASH):
                yield (
                    f"controls.{i}.images.{j}: the file has the hash of the picture's"
                    " text, and not the picture"
                )
