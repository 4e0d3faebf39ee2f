"""Pictures of single frames, made ready for a control."""

import io
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..autoencoder import encode_pixels
from ..errors import InvalidRequest
from ..job.frames import place_frames

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
_MOST_PIXELS = 50_000_000
_ALLOWED = (
    f"a picture ({', '.join(_FORMATS)}) of at most"
    f" {_MOST_PIXELS // 1_000_000} megapixels"
)
_DAMAGED = (  # what Pillow raises for damaged or foreign content
    *(OSError, ValueError, SyntaxError, EOFError),
    *(struct.error, Image.DecompressionBombError),
)


def read_picture(content: bytes, field: str) -> Image.Image:
    """Read a picture file as RGB pixels, turned as its EXIF data demand.

    Raises InvalidRequest, for ``field``, if it is damaged, too large or no picture.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
            _check_size(picture, field)
            return ImageOps.exif_transpose(picture).convert("RGB")
    except _DAMAGED as error:
        shown = f"{len(content)} bytes that are no such picture"
        raise InvalidRequest(field, shown, _ALLOWED) from error


def _check_size(picture: Image.Image, field: str) -> None:
    if picture.width * picture.height > _MOST_PIXELS:
        shown = f"{picture.width}x{picture.height} pixels"
        raise InvalidRequest(field, shown, _ALLOWED)


def fit_picture(picture: Image.Image, width: int, height: int) -> Tensor:
    """Crop ``picture`` to the aspect of the frames and resize it.

    Returns (3, height, width), 0..1. The crop is the largest one about the centre: the
    same pixels as the random crop of the published script, whose scale is always 1.
    """
    aspect = width / height
    crop_width = min(picture.width, round(picture.height * aspect))
    crop_height = min(picture.height, round(picture.width / aspect))
    left, top = (picture.width - crop_width) // 2, (picture.height - crop_height) // 2
    box = (left, top, left + max(crop_width, 1), top + max(crop_height, 1))
    cropped = picture.convert("RGB").crop(box)
    fitted = cropped.resize((width, height), Image.Resampling.BILINEAR)
    return torch.as_tensor(np.array(fitted)).permute(2, 0, 1).float() / 255


def normalize_picture(picture: Tensor) -> Tensor:
    """Turn a picture (3, H, W) gray and stretch it to 0..1.

    This is for sketches whose paper is not white. A uniform picture becomes all zeros.
    """
    gray = picture.mean(dim=0, keepdim=True)
    gray = gray - gray.min()
    return (gray / gray.max().clamp(min=1 / 255)).expand_as(picture)


@torch.inference_mode()
def condition_images(
    vae: Any,
    pictures: Sequence[Image.Image],
    width: int,
    height: int,
    *,
    normalize: bool,
    takes_latents: bool,
) -> Tensor:
    """Fit pictures to the frames: pixels (1, 3, n, height, width), 0..1.

    With ``takes_latents``: the means of their latents, (1, 4, n, height / 8, width /
    8).
    """
    fitted = [fit_picture(picture, width, height) for picture in pictures]
    if normalize:
        fitted = [normalize_picture(picture) for picture in fitted]
    pixels = torch.stack(fitted, dim=1)[None]
    return encode_pixels(vae, pixels) if takes_latents else pixels


def place_images(
    images: Tensor, frame_indices: Sequence[int], num_frames: int
) -> Tensor:
    """Put images (1, c, n, h, w) at their frames, with a mask as the last channel.

    Returns (1, c + 1, num_frames, h, w), with zeros at all other frames. Negative
    indices count from the end. Raises InvalidRequest as ``place_frames`` does.
    """
    shape = tuple(images.shape)
    if len(shape) != 5 or shape[0] != 1:
        allowed = "images of the shape (1, c, n, h, w)"
        raise InvalidRequest("controls.images", str(shape), allowed)
    _, channels, count, height, width = shape
    frames = place_frames("controls.frame_indices", frame_indices, count, num_frames)
    placed = images.new_zeros(1, channels + 1, num_frames, height, width)
    placed[:, :channels, frames] = images
    placed[:, channels, frames] = 1
    return placed
