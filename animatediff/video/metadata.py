"""How a clip was made, as JSON inside the clip's own file."""

import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ..errors import EncodeError
from .formats import OUTPUT_FORMATS, format_of_content

_NOT_OURS = (
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    SyntaxError,  # Pillow raises it for a broken PNG
    RuntimeError,  # a zip with a password or an unknown method; JSON of endless depth
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)
"""What readers raise for files of other programs, and for broken ones."""


def metadata_text(metadata: Mapping[str, Any]) -> str:
    """Return ``metadata`` as one line of ASCII, which every container can hold.

    Raises EncodeError for values that JSON does not have.
    """
    try:
        return json.dumps(dict(metadata), ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise EncodeError(f"the metadata are not valid JSON: {error}") from error


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata that ``write_video`` stored in the file.

    The format is recognised by the file's content, not by its name. Raises EncodeError
    if the file cannot be read or holds no metadata from ``write_video``.
    """
    try:
        row = OUTPUT_FORMATS[format_of_content(path)]
        metadata = json.loads(row.read_comment(path))
    except OSError as error:
        reason = error.strerror or "it is damaged"
        raise EncodeError(f"the file cannot be read: {reason}") from error
    except _NOT_OURS as error:
        raise EncodeError("the file has no AnimateDiff metadata") from error
    if not isinstance(metadata, dict):
        raise EncodeError("the file has no AnimateDiff metadata")
    return cast(dict[str, Any], metadata)
