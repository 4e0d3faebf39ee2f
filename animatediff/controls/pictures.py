"""Images for single frames -> the condition of a SparseCtrl branch."""

import io
import struct
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import InvalidRequest
from ..job.frames import place_frames

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
_MOST_PIXELS = 50_000_000


def read_picture(content: bytes, field: str) -> Image.Image:
    """A picture file as RGB pixels, turned as its EXIF says. Raises InvalidRequest, for
    ``field``, for others.
    """
    allowed = f"a picture ({', '.join(_FORMATS)}) of at most {_MOST_PIXELS // 1_000_000} megapixels"
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
            if picture.width * picture.height > _MOST_PIXELS:
                raise InvalidRequest(
                    field, f"{picture.width}x{picture.height} pixels", allowed
                )
            return ImageOps.exif_transpose(picture).convert("RGB")
    except (
        OSError,
        ValueError,
        SyntaxError,
        struct.error,
        Image.DecompressionBombError,
        EOFError,
    ) as error:
        raise InvalidRequest(
            field, f"{len(content)} bytes that are no such picture", allowed
        ) from error


def fit_picture(picture: Image.Image, width: int, height: int) -> Tensor:
    """The largest centred part of ``picture`` with the aspect of the frames, resized:
    (3, height, width), 0..1.

    The same pixels as the published script's random crop, which leaves chance no room
    (its scale is 1).
    """
    aspect = width / height
    crop_width = min(picture.width, round(picture.height * aspect))
    crop_height = min(picture.height, round(picture.width / aspect))
    left, top = (picture.width - crop_width) // 2, (picture.height - crop_height) // 2
    box = (left, top, left + max(crop_width, 1), top + max(crop_height, 1))
    fitted = (
        picture.convert("RGB")
        .crop(box)
        .resize((width, height), Image.Resampling.BILINEAR)
    )
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1).float() / 255


def normalize_picture(picture: Tensor) -> Tensor:
    """Gray, stretched to 0..1, (3, H, W): for sketches whose paper is not white. A
    uniform one becomes all zeros.
    """
    gray = picture.mean(dim=0, keepdim=True)
    gray = gray - gray.min()
    return (gray / gray.max().clamp(min=1 / 255)).expand_as(picture)


def place_images(
    images: Tensor, frame_indices: Sequence[int], num_frames: int
) -> Tensor:
    """Images (1, c, n, h, w) at their frames, zeros elsewhere, and a mask: (1, c + 1,
    num_frames, h, w).

    Negative indices count from the end. Raises InvalidRequest as ``place_frames`` does.
    """
    if images.ndim != 5 or images.shape[0] != 1:
        raise InvalidRequest(
            "controls.images",
            str(tuple(images.shape)),
            "images of the shape (1, c, n, h, w)",
        )
    frames = place_frames(
        "controls.frame_indices", frame_indices, images.shape[2], num_frames
    )
    _, channels, _, height, width = images.shape
    placed = images.new_zeros(1, channels + 1, num_frames, height, width)
    placed[:, :channels, frames] = images
    placed[:, channels, frames] = 1
    return placed
