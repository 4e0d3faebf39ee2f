"""Files that must fit into an answer, where there is no bucket to put them into."""

from collections.abc import Iterator
from pathlib import Path

from ..errors import InvalidRequest, OutputTooLarge
from ..job.clip import Clip
from ..job.provenance import metadata_of
from ..job.result import Generated
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


def write_fitting(
    generated: Generated, folder: Path, quality: int, limit: int | None
) -> tuple[EncodedVideo, tuple[str, ...]]:
    """Write the clip into ``folder``, and return the file with warnings about it.

    A file of more than ``limit`` bytes is replaced by an mp4 of lower quality. Raises
    OutputTooLarge if even the smallest is larger, EncodeError.
    """
    asked = _write(generated, folder, generated.clip.format, quality)
    if limit is None or asked.bytes <= limit:
        return asked, ()
    sizes = [asked.bytes]
    for smaller_quality, encoded in _smaller(generated, folder):
        if encoded.bytes <= limit:
            return encoded, (_replaced(asked, smaller_quality),)
        sizes.append(encoded.bytes)
    raise OutputTooLarge(
        f"the smallest possible file has {min(sizes)} bytes, an answer may have at most"
        f" {limit}: configure a bucket",
        bytes=min(sizes),
        limit=limit,
    )


def _smaller(generated: Generated, folder: Path) -> Iterator[tuple[int, EncodedVideo]]:
    for quality in SMALLER_QUALITIES:
        yield quality, _write(generated, folder, "mp4", quality)


def _replaced(asked: EncodedVideo, quality: int) -> str:
    return (
        f"{asked.bytes} bytes are too many for an answer: an mp4 of quality {quality}"
        f" instead of {asked.format}"
    )


def _write(
    generated: Generated, folder: Path, format: str, quality: int
) -> EncodedVideo:
    path = folder / f"clip-{quality}{OUTPUT_FORMATS[format].suffix}"
    return write_video(
        generated.video,
        path,
        format=format,
        quality=quality,
        metadata=metadata_of(generated),
    )
