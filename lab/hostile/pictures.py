"""Small picture files that take long, or much memory, to read."""

import io
from typing import Any

from PIL import Image


def repeated_scans(side: int, scans: int) -> bytes:
    """Return a progressive JPEG whose last scan is there ``scans`` times more."""
    content = io.BytesIO()
    Image.new("L", (side, side), 128).save(content, "JPEG", progressive=True)
    whole = content.getvalue()
    end = whole.rindex(b"\xff\xd9")
    last = whole[whole.rindex(b"\xff\xda") : end]
    return whole[:end] + last * scans + whole[end:]


def blank(side: int, format: str, mode: str = "RGB", **options: Any) -> bytes:
    """Return a picture of ``side`` x ``side`` pixels of one colour."""
    content = io.BytesIO()
    colour = (200, 10, 10) if mode == "RGB" else 0
    Image.new(mode, (side, side), colour).save(content, format, **options)
    return content.getvalue()
