"""The file formats of finished clips: one row per format.

To add a format, add a row here and write the two functions that it names. The table
loads neither numpy nor Pillow nor ffmpeg: a row's functions are imported at their first
use.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EncodeError
from .clip import Encoding, Video


@dataclass(frozen=True)
class Signature:
    """The bytes that every file of a format has at one place."""

    content: bytes
    offset: int = 0

    def matches(self, beginning: bytes) -> bool:
        """Whether a file that starts with ``beginning`` is of the format."""
        return beginning.startswith(self.content, self.offset)

    @property
    def end(self) -> int:
        """The number of bytes from a file's start that the comparison needs."""
        return self.offset + len(self.content)


@dataclass(frozen=True)
class OutputFormat:
    """A file format, its writer and its metadata reader.

    ``bytes_per_pixel`` is typical of a detailed clip and serves to estimate a file's
    size before the work. ``max_fps`` is the fastest rate that the format can express.
    ``writer`` and ``reader`` are functions of this room, as "module:function".
    """

    mime: str
    suffix: str
    bytes_per_pixel: float
    signature: Signature
    writer: str
    reader: str
    max_fps: int = 60

    def write(self, video: Video, path: Path, how: Encoding) -> None:
        """Write ``video`` to ``path``."""
        _function(self.writer)(video, path, how)

    def read_comment(self, path: Path) -> str:
        """Return the comment field of a file of this format."""
        return _function(self.reader)(path)


OUTPUT_FORMATS: Mapping[str, OutputFormat] = {
    "mp4": OutputFormat(
        mime="video/mp4",
        suffix=".mp4",
        bytes_per_pixel=0.2,
        signature=Signature(b"ftyp", offset=4),
        writer="ffmpeg:write_mp4",
        reader="ffmpeg:read_mp4_comment",
    ),
    "gif": OutputFormat(
        mime="image/gif",
        suffix=".gif",
        bytes_per_pixel=1.0,
        signature=Signature(b"GIF8"),
        writer="animations:write_gif",
        reader="animations:read_gif_comment",
        max_fps=50,  # delays are whole 1/100 s, and players slow down below 2
    ),
    "webm": OutputFormat(
        mime="video/webm",
        suffix=".webm",
        bytes_per_pixel=0.2,
        signature=Signature(b"\x1a\x45\xdf\xa3"),
        writer="ffmpeg:write_webm",
        reader="ffmpeg:read_webm_comment",
    ),
    "webp": OutputFormat(
        mime="image/webp",
        suffix=".webp",
        bytes_per_pixel=0.4,
        signature=Signature(b"WEBP", offset=8),
        writer="animations:write_webp",
        reader="animations:read_webp_comment",
    ),
    "apng": OutputFormat(
        mime="image/apng",
        suffix=".apng",
        bytes_per_pixel=2.5,
        signature=Signature(b"\x89PNG"),
        writer="animations:write_apng",
        reader="animations:read_apng_comment",
    ),
    "png_zip": OutputFormat(
        mime="application/zip",
        suffix=".zip",
        bytes_per_pixel=2.5,
        signature=Signature(b"PK\x03\x04"),
        writer="animations:write_png_zip",
        reader="animations:read_png_zip_comment",
    ),
}
"""Every output format by its name in a job.

Of several formats with the same suffix, the first is the one that the suffix alone
means. The same holds for signatures.
"""


def format_of_suffix(suffix: str) -> str:
    """Return the name of the format that a file name's suffix means.

    Raises EncodeError if no format has this suffix.
    """
    for name, row in OUTPUT_FORMATS.items():
        if row.suffix == suffix.lower():
            return name
    suffixes = dict.fromkeys(row.suffix for row in OUTPUT_FORMATS.values())
    raise EncodeError(f"unknown suffix {suffix!r}, allowed: {', '.join(suffixes)}")


def format_of_content(path: Path) -> str:
    """Return the name of the format whose signature the file has.

    Raises EncodeError if there is none, OSError if the file cannot be read.
    """
    with path.open("rb") as file:
        beginning = file.read(max(row.signature.end for row in OUTPUT_FORMATS.values()))
    for name, row in OUTPUT_FORMATS.items():
        if row.signature.matches(beginning):
            return name
    raise EncodeError(f"the file is none of: {', '.join(OUTPUT_FORMATS)}")


def _function(reference: str) -> Any:
    module, name = reference.split(":")
    return getattr(importlib.import_module(f".{module}", __package__), name)
