"""A clip as a small animated WebP inside a text, for the progress of a job."""

import base64
from collections.abc import Iterator
from itertools import product

import numpy as np
import numpy.typing as npt
from PIL import Image

from .animations import encode_webp
from .clip import Encoding, frame_delays

MIME = "image/webp"
_START = f"data:{MIME};base64,"
_SIDES = (256, 192, 128, 96, 64, 48, 32, 16)
"""Pixels along the longer side, the best first."""
_QUALITIES = (70, 40, 15)
_LEAST_SIDE, _MOST_ZOOM = 64, 8
Frames = npt.NDArray[np.uint8]


def preview_url(frames: Frames, fps: int, max_bytes: int) -> str | None:
    """Return uint8 frames (f, h, w, 3) as a data URL of at most ``max_bytes``.

    It is the first that fits of ever smaller ones: lower quality, smaller pictures,
    then fewer frames of the same duration. None if none fits.
    """
    limit = (max_bytes - len(_START)) // 4 * 3  # base64 takes 4 characters for 3 bytes
    delays = frame_delays(len(frames), fps, 1000)
    for each, (side, quality) in product(_steps(len(frames)), _sizes(frames)):
        kept, how = frames[::each], Encoding(quality)
        if _estimate(kept, side, how) > limit:
            continue
        small = np.stack([_resized(frame, side) for frame in kept])
        joined = [sum(delays[i : i + each]) for i in range(0, len(delays), each)]
        webp = encode_webp(small, joined, how)
        if len(webp) <= limit:
            return _START + base64.b64encode(webp).decode("ascii")
    return None


def _steps(count: int) -> Iterator[int]:
    """From one kept frame to the next: 1, 2, 4, ... and all but the first."""
    step = 1
    while step < count:
        yield step
        step *= 2
    yield count


def _sizes(frames: Frames) -> list[tuple[int, int]]:
    """Sides and qualities to try; larger pictures have no more to show."""
    longest = max(frames.shape[1:3])
    most = max(_LEAST_SIDE, min(longest * _MOST_ZOOM, _SIDES[0]))
    return [
        (side, quality) for side in _SIDES if side <= most for quality in _QUALITIES
    ]


def _resized(frame: Frames, side: int) -> Frames:
    height, width = frame.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(picture)


def _estimate(kept: Frames, side: int, how: Encoding) -> int:
    """A low guess at the size, by the frame in the middle."""
    one = encode_webp(_resized(kept[len(kept) // 2], side)[None], [1], how)
    return round(0.7 * len(kept) * len(one))
