"""How a clip was made, as JSON inside the clip's own file."""

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.ExifTags import Base as ExifTag

from ..errors import EncodeError
from .ffmpeg import read_comment


def metadata_text(metadata: Mapping[str, Any]) -> str:
    """One line of ASCII, which every container can hold as it is. Raises EncodeError if
    JSON cannot say it.
    """
    try:
        return json.dumps(dict(metadata), ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise EncodeError(f"the metadata are not JSON: {error}") from error


def _gif_text(path: Path) -> str:
    with Image.open(path, formats=["GIF"]) as image:
        return image.info["comment"].decode("ascii")


def _webp_text(path: Path) -> str:
    with Image.open(path, formats=["WEBP"]) as image:
        return image.getexif()[ExifTag.ImageDescription]


def _apng_text(path: Path) -> str:
    with Image.open(path, formats=["PNG"]) as image:
        return image.info["Comment"]


def _zip_text(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        return archive.read("metadata.json").decode("ascii")


_READERS: Mapping[str, Callable[[Path], str]] = {
    "mp4": lambda path: read_comment(path, "mp4"),
    "gif": _gif_text,
    "webm": lambda path: read_comment(path, "matroska"),
    "webp": _webp_text,
    "apng": _apng_text,
    "png_zip": _zip_text,
}


def read_metadata(path: Path, format: str) -> dict[str, Any]:
    """What ``write_video`` was given as metadata. Raises EncodeError if the file holds
    nothing of the kind.
    """
    if format not in _READERS:
        raise EncodeError(f"no reader for the format {format!r}")
    try:
        # says plainly that there is no such file, before ffmpeg says it its way
        path.stat()
        metadata = json.loads(_READERS[format](path))
    except OSError as error:
        raise EncodeError(
            f"cannot read the {format} file:"
            f" {error.strerror or 'it is of another kind'}"
        ) from error
    except (
        KeyError,
        ValueError,
        SyntaxError,
        zipfile.BadZipFile,
    ) as error:  # SyntaxError: Pillow's broken PNG
        raise EncodeError(f"the {format} file has no metadata of ours") from error
    if not isinstance(metadata, dict):
        raise EncodeError(f"the {format} file has no metadata of ours")
    return metadata
