"""Write a clip as a file of any output format."""

import hashlib
import struct
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..atomic import written_whole
from ..errors import EncodeError
from ..progress import Check, no_check
from .clip import EncodedVideo, Encoding, Video
from .formats import OUTPUT_FORMATS
from .metadata import metadata_text

_ENCODER_FAILURES = (
    ValueError,
    RuntimeError,
    OverflowError,
    MemoryError,
    struct.error,
)


def write_video(
    video: Video,
    path: Path,
    *,
    format: str,
    quality: int = 90,
    metadata: Mapping[str, Any],
    check: Check = no_check,
) -> EncodedVideo:
    """Write ``video`` to ``path``, completely or not at all.

    The same input gives the same bytes. ``quality`` is 1 to 100 for mp4, webm and webp;
    gif, apng and png_zip ignore it. ``metadata`` holds JSON values; ``read_metadata``
    returns them. ``check`` is called while the file is written. Raises EncodeError for
    every failure, and whatever ``check`` raises.
    """
    _check_choices(video, format, quality)
    row = OUTPUT_FORMATS[format]
    how = Encoding(quality, metadata_text(metadata), check)
    with replacing(path) as part:
        row.write(video, part, how)
        size = part.stat().st_size
        with part.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return EncodedVideo(
        path=path,
        format=format,
        mime=row.mime,
        bytes=size,
        sha256=sha256,
        num_frames=video.num_frames,
        width=video.width,
        height=video.height,
        fps=video.fps,
    )


def _check_choices(video: Video, format: str, quality: int) -> None:
    if format not in OUTPUT_FORMATS:
        raise EncodeError(
            f"unknown format {format!r}, allowed: {', '.join(OUTPUT_FORMATS)}"
        )
    if not 1 <= quality <= 100:
        raise EncodeError(f"quality must be 1 to 100, got {quality}")
    max_fps = OUTPUT_FORMATS[format].max_fps
    if video.fps > max_fps:
        raise EncodeError(
            f"{format} allows at most {max_fps} frames per second, got {video.fps}"
        )


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Yield a temporary path that becomes ``path`` if the block succeeds.

    It is deleted if the block fails. It lies in a hidden folder next to ``path``, where
    a writer may create other files too. Failures of the file system and of encoders are
    raised as EncodeError, without paths of this host.
    """
    try:
        with written_whole(path, parents=False) as part:
            yield part
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise EncodeError(f"the file could not be written: {reason}") from error
    except _ENCODER_FAILURES as error:
        raise EncodeError(f"the frames could not be encoded: {error}") from error
