"""Pixels to latents and back, with the VAE of diffusers."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .errors import NonFiniteLatents
from .progress import Progress, Report, ignore
from .transfers import FinishedWork, receive, send


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


class Decoder:
    """The decoder of ``vae``, in the VAE's dtype, or in float32 where that overflows.

    ``overflows`` remembers that it did, so that later clips are decoded in float32 at
    once, one frame at a time. A copy of the weights is used for that, which lasts as
    long as the clip; the VAE itself stays as it is.
    """

    def __init__(self, vae: Any) -> None:
        self.vae = vae
        self.overflows = False

    @property
    def float32_bytes(self) -> int:
        """Memory of the weights in float32, if they are needed; 0 otherwise."""
        if not self.overflows:
            return 0
        parts = (self.vae.decoder, self.vae.post_quant_conv)
        return sum(
            tensor.numel() * torch.float32.itemsize
            for part in parts
            for tensor in part.parameters()
        )

    def video(self, latents: Tensor, chunk: int) -> Tensor:
        """Decode latents (b, 4, f, h, w) to a video (b, 3, f, 8 h, 8 w), on the CPU.

        Values are 0..1, in float32 or better; ``chunk`` frames are decoded at once.
        Raises NonFiniteLatents if float32 does not help.
        """
        pictures = self._decode(latents, chunk, lambda picture: picture, ignore)
        return pictures.transpose(1, 2)

    def frames(self, latents: Tensor, chunk: int, report: Report = ignore) -> Tensor:
        """Decode latents (b, 4, f, h, w) to frames (b, f, 8 h, 8 w, 3), uint8.

        The frames are on the CPU; values are rounded on the device. ``report`` is
        called when ``chunk`` frames are finished. Raises as ``video`` does.
        """
        return self._decode(latents, chunk, _rounded, report)

    @torch.inference_mode()
    def _decode(
        self,
        latents: Tensor,
        chunk: int,
        finish: Callable[[Tensor], Tensor],
        report: Report,
    ) -> Tensor:
        """Return what ``finish`` makes of the pictures: (b, f, ...)."""
        dtype: torch.dtype = self.vae.dtype
        frames = latents.transpose(1, 2).flatten(0, 1) / self.vae.config.scaling_factor
        if not self.overflows:
            pictures = _decoded(self.vae, frames.split(chunk), finish, report)
        else:
            pictures = None
        if pictures is None and dtype != torch.promote_types(dtype, torch.float32):
            copied = _float32_copy(self.vae)
            pictures = _decoded(copied, frames.split(1), finish, report)
            self.overflows = pictures is not None
        if pictures is None:
            raise NonFiniteLatents(None, "decoded frames")
        return torch.unflatten(pictures, 0, (latents.shape[0], -1))


def _decoded(
    vae: Any,
    parts: Sequence[Tensor],
    finish: Callable[[Tensor], Tensor],
    report: Report,
) -> Tensor | None:
    """Return what ``finish`` makes of the pictures (n, 3, H, W), values 0..1.

    None if any of them has a value that is NaN or infinite. The verdicts stay on the
    device until all are decoded, so that no part waits for the one before it.
    """
    precision = torch.promote_types(vae.dtype, torch.float32)
    work, total = FinishedWork(vae.device, report), sum(map(len, parts))
    done: list[Tensor] = []
    verdicts: list[Tensor] = []
    count = 0
    for part in parts:
        latents = send(part, vae.device)
        latents = latents.to(vae.dtype, memory_format=torch.channels_last)
        picture = vae.decode(latents).sample.to(precision)
        verdicts.append(picture.isfinite().all())
        done.append(receive(finish((picture / 2 + 0.5).clamp(0, 1))))
        count += len(part)
        work.launched(Progress("decode", count, total))
    work.wait()
    return torch.cat(done) if torch.stack(verdicts).all() else None


def _rounded(picture: Tensor) -> Tensor:
    """Turn values 0..1 into bytes: (n, 3, H, W) to (n, H, W, 3)."""
    return (picture * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def _float32_copy(vae: Any) -> Any:
    """Copy ``vae``, but for its encoder, in float32. Its own tensors stay in place."""
    copies: dict[int, Any] = {id(vae.encoder): None}
    for part in (vae.decoder, vae.post_quant_conv, vae.quant_conv):
        for tensor in () if part is None else part.parameters():
            copied = tensor.detach().to(torch.float32)
            copies[id(tensor)] = torch.nn.Parameter(copied, requires_grad=False)
    return copy.deepcopy(vae, copies)
