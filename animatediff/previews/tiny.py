"""Latents to pictures by a tiny autoencoder (TAESD), if its weights are installed."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import CheckpointError
from .fitting import Sample, errors_of
from .sketches import bytes_of, calmed

_pooled = cast(Callable[[Tensor, list[int]], Tensor], functional.adaptive_avg_pool2d)
MOST_LATENTS = 24
"""Along a side. Larger clips are made smaller first, which keeps the work small."""


class TinySketch:
    """Decodes latents by diffusers' AutoencoderTiny, frame by frame."""

    def __init__(self, model: Any, spread: float) -> None:
        self._model, self._spread = model, spread

    def __call__(self, latents: Tensor, /) -> Tensor:
        """Turn latents (c, f, h, w) into pictures (f, 8 h, 8 w, 3), uint8."""
        frames = calmed(latents, self._spread).transpose(0, 1)
        scale = MOST_LATENTS / max(frames.shape[-2:])
        if scale < 1:
            size = [max(1, round(side * scale)) for side in frames.shape[-2:]]
            frames = _pooled(frames, size)
        return bytes_of(self._decoded(frames).permute(0, 2, 3, 1))

    def explained(self, sample: Sample) -> float:
        """The share of a picture's variance that the pixels show, see ``Fit``."""
        side = math.isqrt(sample.latents.shape[1])
        latents = torch.unflatten(sample.latents, 1, (1, side, side)).float()  # c 1 h w
        frames = latents.transpose(0, 1).to(self._model.device)
        pixels = self._decoded(frames).clamp(0, 1).transpose(0, 1)
        shown = Sample.of(latents, pixels.cpu())
        return errors_of(shown.colours, sample.colours)[1]

    def _decoded(self, frames: Tensor) -> Tensor:
        """Decode latents (n, c, h, w) to pixels (n, 3, 8 h, 8 w), about 0..1."""
        decoded = self._model.decode(frames.to(self._model.dtype)).sample
        return decoded.float() / 2 + 0.5


def load_tiny(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """Load an AutoencoderTiny in diffusers' folder layout, or None if there is none.

    Only safetensors are read. Raises CheckpointError for a folder that holds something
    else.
    """
    if not (folder / "config.json").is_file():
        return None
    from diffusers.models.autoencoders import autoencoder_tiny

    model_class = cast(Any, autoencoder_tiny).AutoencoderTiny
    try:
        model = model_class.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, torch_dtype=dtype
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder.name} is no tiny autoencoder: {type(error).__name__}",
            file=folder.name,
        ) from error
    return model.to(device).eval().requires_grad_(False)
