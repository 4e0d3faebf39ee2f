"""Files that must fit into an answer, where there is no bucket to put them into."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import InvalidRequest, OutputTooLarge
from ..job.clip import Clip
from ..job.result import Generated
from ..progress import Check, no_check
from ..video import OUTPUT_FORMATS, EncodedVideo, write_video

SMALLER_QUALITIES = (60, 30, 10)
"""Qualities of an mp4 that replaces a file too large for an answer."""


def expected_bytes(request: Clip) -> int:
    """Return the likely size of the job's file."""
    pixels = request.num_frames * request.width * request.height
    return int(pixels * OUTPUT_FORMATS[request.format].bytes_per_pixel)


def check_inline_size(request: Clip, limit: int) -> None:
    """Raise InvalidRequest if the job's file would likely exceed ``limit`` bytes."""
    size = expected_bytes(request)
    if size > limit:
        raise InvalidRequest(
            "num_frames, width, height, format",
            f"{request.num_frames} frames of {request.width}x{request.height} as"
            f" {request.format}, about {size} bytes",
            f"about {limit} bytes, because no bucket is configured (BUCKET_NAME): a"
            " smaller clip, or an mp4",
        )


@dataclass(frozen=True)
class Writing:
    """How a clip is written: where, in which quality, and with which metadata.

    ``check`` is called meanwhile; where it raises, the writing ends.
    """

    folder: Path
    quality: int
    metadata: Mapping[str, Any]
    check: Check = no_check


def write_fitting(
    generated: Generated, writing: Writing, limit: int | None
) -> tuple[EncodedVideo, tuple[str, ...]]:
    """Write the clip, and return the file with warnings about it.

    A file of more than ``limit`` bytes is replaced by an mp4 of lower quality. Raises
    OutputTooLarge if even the smallest is larger, EncodeError, and whatever the check
    raises.
    """
    asked = _write(generated, writing, generated.clip.format)
    if limit is None or asked.bytes <= limit:
        return asked, ()
    sizes = [asked.bytes]
    for smaller_quality, encoded in _smaller(generated, writing):
        if encoded.bytes <= limit:
            return encoded, (_replaced(asked, smaller_quality),)
        sizes.append(encoded.bytes)
    raise OutputTooLarge(
        f"the smallest possible file has {min(sizes)} bytes, an answer may have at most"
        f" {limit}: configure a bucket",
        bytes=min(sizes),
        limit=limit,
    )


def _smaller(
    generated: Generated, writing: Writing
) -> Iterator[tuple[int, EncodedVideo]]:
    for quality in SMALLER_QUALITIES:
        yield quality, _write(generated, replace(writing, quality=quality), "mp4")


def _replaced(asked: EncodedVideo, quality: int) -> str:
    return (
        f"{asked.bytes} bytes are too many for an answer: an mp4 of quality {quality}"
        f" instead of {asked.format}"
    )


def _write(generated: Generated, writing: Writing, format: str) -> EncodedVideo:
    name = f"clip-{writing.quality}{OUTPUT_FORMATS[format].suffix}"
    return write_video(
        generated.video,
        writing.folder / name,
        format=format,
        quality=writing.quality,
        metadata=writing.metadata,
        check=writing.check,
    )
