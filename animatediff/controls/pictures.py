"""Pictures of single frames, made ready for a control."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..autoencoder import encode_pixels
from ..errors import InvalidRequest
from ..job.frames import place_frames
from .decoding import BadPicture, Size, fitted, flattened, read_rgb

log = logging.getLogger(__name__)


def read_picture(content: bytes, field: str) -> Image.Image:
    """Read a picture file as RGB pixels, turned as its EXIF data demand.

    For files of this machine; those of a job are read by a ``PictureReader``. The log
    tells what a picture lost, such as transparency. Raises InvalidRequest, for
    ``field``, if it is damaged, too large or no picture.
    """
    try:
        picture, notes = read_rgb(content)
    except BadPicture as error:
        raise InvalidRequest(field, error.got, error.allowed) from error
    for note in notes:
        log.warning("%s: %s", field, note)
    return picture


def fit_picture(picture: Image.Image, width: int, height: int) -> Tensor:
    """Crop ``picture`` to the aspect of the frames and resize it.

    Returns (3, height, width), 0..1. For transparent parts and deep pixels see
    ``flattened``, for the crop ``fitted``. Raises InvalidRequest for pixels that have
    no colours.
    """
    try:
        flat, _ = flattened(picture)
    except BadPicture as error:
        raise InvalidRequest("images", error.got, error.allowed) from error
    pixels = np.array(fitted(flat, Size(width, height)))
    return torch.as_tensor(pixels).permute(2, 0, 1).float() / 255


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
