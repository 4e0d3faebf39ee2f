"""The way out: one function for every format, one table of what the formats do."""

import hashlib
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..atomic import written_whole
from ..catalog import OUTPUT_FORMATS
from ..errors import EncodeError
from .animations import write_apng, write_gif, write_png_zip, write_webp
from .clip import EncodedVideo, Video
from .ffmpeg import write_mp4, write_webm
from .metadata import metadata_text

Writer = Callable[[Video, Path, int, str], None]
"""Writes video to path, at a quality of 1 to 100 if the format knows one, with a line
of ASCII in its comment field.
"""

WRITERS: Mapping[str, Writer] = {
    "mp4": write_mp4,
    "gif": write_gif,
    "webm": write_webm,
    "webp": write_webp,
    "apng": write_apng,
    "png_zip": write_png_zip,
}


def write_video(
    video: Video,
    path: Path,
    *,
    format: str,
    quality: int = 90,
    metadata: Mapping[str, Any],
) -> EncodedVideo:
    """Writes ``video`` as ``path``, whole or not at all. The same input gives the same
    bytes.

    ``quality``: 1 to 100 for mp4, webm and webp; gif, apng and png_zip have no such
    choice. ``metadata``: what JSON can say; ``read_metadata`` gives it back. Raises
    EncodeError, whatever went wrong.
    """
    if format not in WRITERS:
        raise EncodeError(
            f"no writer for the format {format!r}, there are: {', '.join(WRITERS)}"
        )
    if not 1 <= quality <= 100:
        raise EncodeError(f"quality must be 1 to 100, got {quality}")
    kind = OUTPUT_FORMATS[format]
    if video.fps > kind.max_fps:
        raise EncodeError(
            f"{format} shows at most {kind.max_fps} frames per second, got {video.fps}"
        )
    text = metadata_text(metadata)
    with replacing(path) as part:
        WRITERS[format](video, part, quality, text)
        size = part.stat().st_size
        with part.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return EncodedVideo(
        path=path,
        format=format,
        mime=kind.mime,
        bytes=size,
        sha256=sha256,
        num_frames=video.num_frames,
        width=video.width,
        height=video.height,
        fps=video.fps,
    )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes ``path`` if the block ends well and is gone if
    it does not.

    It lies in a hidden folder of its own beside ``path``, where a writer may put other
    files too. What goes wrong inside is raised as EncodeError, without paths of this
    host.
    """
    try:
        with written_whole(path, parents=False) as part:
            yield part
    except OSError as error:
        raise EncodeError(
            f"the file could not be written: {error.strerror or type(error).__name__}"
        ) from error
    except (
        ValueError,
        RuntimeError,
        OverflowError,
        MemoryError,
        struct.error,
    ) as error:
        raise EncodeError(f"the frames could not be encoded: {error}") from error
