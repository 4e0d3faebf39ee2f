"""Pixels to latents and back, with the VAE of diffusers."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .errors import NonFiniteLatents
from .progress import Progress, Report, ignore


def downscale(vae: Any) -> int:
    """Return the number of pixels along the side of a latent."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


@torch.inference_mode()
def encode_pixels(vae: Any, pixels: Tensor) -> Tensor:
    """Encode pixels (1, 3, n, H, W), 0..1, as latents (1, 4, n, H / 8, W / 8).

    The latents are the posterior's mean, so there is no chance in them.
    """
    frames = (pixels[0].transpose(0, 1) * 2 - 1).to(vae.device, vae.dtype)
    means = [vae.encode(frame).latent_dist.mean for frame in torch.split(frames, 1)]
    scaled = torch.cat(means) * vae.config.scaling_factor
    return scaled.transpose(0, 1)[None]


@torch.inference_mode()
def decode_video(vae: Any, latents: Tensor, chunk: int) -> Tensor:
    """Decode latents (b, 4, f, h, w) to videos (b, 3, f, 8 h, 8 w), on the CPU.

    Values are 0..1, in float32 or better; ``chunk`` frames are decoded at once.
    """
    pictures = torch.cat([part.cpu() for part in _decoded(vae, latents, chunk)])
    return torch.unflatten(pictures, 0, (latents.shape[0], -1)).transpose(1, 2)


@torch.inference_mode()
def decode_frames(
    vae: Any, latents: Tensor, chunk: int, report: Report = ignore
) -> Tensor:
    """Decode latents (b, 4, f, h, w) to frames (b, f, 8 h, 8 w, 3), uint8, on the CPU.

    Values are rounded on the device. ``report`` is called after each ``chunk`` frames.
    """
    total = latents.shape[0] * latents.shape[2]
    frames: list[Tensor] = []
    for part in _decoded(vae, latents, chunk):
        rounded = (part * 255).round().to(torch.uint8)
        frames.append(rounded.permute(0, 2, 3, 1).cpu())
        report(Progress("decode", min(len(frames) * chunk, total), total))
    return torch.unflatten(torch.cat(frames), 0, (latents.shape[0], -1))


def _decoded(vae: Any, latents: Tensor, chunk: int) -> Iterator[Tensor]:
    """Yield pictures (n, 3, H, W), values 0..1, ``chunk`` at a time."""
    frames = latents.transpose(1, 2).flatten(0, 1) / vae.config.scaling_factor
    for part in torch.split(frames, chunk):
        picture = _decode_chunk(vae, part)
        yield (picture / 2 + 0.5).clamp(0, 1)


def _decode_chunk(vae: Any, chunk: Tensor) -> Tensor:
    """Decode in the VAE's dtype, or in float32 where half precision overflows.

    Raises NonFiniteLatents if float32 does not help.
    """
    dtype = vae.dtype
    precision = torch.promote_types(dtype, torch.float32)
    chunk = chunk.to(vae.device, memory_format=torch.channels_last)
    picture = vae.decode(chunk.to(dtype)).sample.to(precision)
    if dtype != precision and not picture.isfinite().all():
        picture = _decode_in_float32(vae, chunk)
    if not picture.isfinite().all():
        raise NonFiniteLatents(None, "decoded frames")
    return picture


def _decode_in_float32(vae: Any, chunk: Tensor) -> Tensor:
    dtype = vae.dtype
    try:
        torch.nn.Module.to(vae, torch.float32)
        return vae.decode(chunk.to(torch.float32)).sample
    finally:
        torch.nn.Module.to(vae, dtype)
