"""A preview as one picture: all its frames side by side, for a page to move."""

import base64
import binascii
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageSequence

from ..progress import Preview

Frames = npt.NDArray[np.uint8]
MAX_SIDE = 512
MAX_FRAMES = 64
_QUALITY = 80
_LEAST_SIDE = 128
_MOST_PIXELS = 16383  # along a side of a WebP
_START = "data:image/webp;base64,"


@dataclass(frozen=True)
class Strip:
    """``count`` frames from left to right, all of one size.

    ``url`` is a data URL; the clip lasts ``seconds``.
    """

    url: str
    count: int
    seconds: float


def strip_of(preview: Preview) -> Strip:
    """Return the strip of a preview."""
    return _strip(preview.frames.numpy(), len(preview.frames) / preview.fps)


def strip_of_url(url: Any) -> Strip | None:
    """Return the strip of a preview as an endpoint sends it: an animated WebP.

    None for anything else, and for pictures that are larger than a preview.
    """
    if not isinstance(url, str) or not url.startswith(_START):
        return None
    try:
        content = base64.b64decode(url[len(_START) :], validate=True)
        with Image.open(io.BytesIO(content), formats=["WEBP"]) as image:
            count: int = getattr(image, "n_frames", 1)
            if max(image.size) > MAX_SIDE or count > MAX_FRAMES:
                return None
            frames = np.stack([np.asarray(f.convert("RGB")) for f in _frames(image)])
            milliseconds: int = sum(f.info.get("duration", 125) for f in _frames(image))
    except (OSError, ValueError, SyntaxError, binascii.Error):
        return None
    return _strip(frames, max(milliseconds, 1) / 1000)


def _frames(image: Image.Image) -> ImageSequence.Iterator:
    return ImageSequence.Iterator(image)


def _readable(frame: Frames) -> Frames:
    """Enlarge a small frame smoothly; a browser's own way shows its pixels as stars."""
    scale = _LEAST_SIDE / max(frame.shape[:2])
    if scale <= 1:
        return frame
    size = (round(frame.shape[1] * scale), round(frame.shape[0] * scale))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))


def _strip(frames: Frames, seconds: float) -> Strip:
    count, _, width, _ = frames.shape
    kept = frames[:: -(-count * max(width, _LEAST_SIDE) // _MOST_PIXELS)]
    stream = io.BytesIO()
    row = np.concatenate([_readable(frame) for frame in kept], axis=1)
    Image.fromarray(row).save(stream, "WEBP", quality=_QUALITY, method=0)
    url = _START + base64.b64encode(stream.getvalue()).decode("ascii")
    return Strip(url, len(kept), seconds)
