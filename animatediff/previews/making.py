"""The sketch of a VAE: a tiny autoencoder's, or a linear map."""

import logging
import weakref
from pathlib import Path
from typing import Any

import torch

from ..autoencoder import Decoder
from ..errors import CheckpointError
from ..families.base import PreviewFactors
from .fitting import factors_of, samples
from .sketches import LinearSketch, Sketch
from .tiny import TinySketch, load_tiny

log = logging.getLogger(__name__)
LEAST_EXPLAINED = 0.5
"""A tiny autoencoder that shows less of a picture is another VAE's."""
_TRIALS = 2  # pictures


class SketchMaker:
    """Makes the sketch of the VAE in use, and keeps it for as long as that is loaded.

    ``cache`` is the folder of fitted factors. ``tiny`` is where a tiny autoencoder
    lies, if one is installed.
    """

    def __init__(self, cache: Path, tiny: Path) -> None:
        self._cache, self._tiny = cache, tiny
        self._made: tuple[weakref.ref[Decoder], Sketch] | None = None

    @torch.inference_mode()
    def sketch(self, decoder: Decoder, known: PreviewFactors | None) -> Sketch:
        """Return the sketch of the VAE of ``decoder``.

        ``known`` are the factors of its image model, if there are some: the VAEs of one
        image model share its latents.
        """
        if self._made is None or self._made[0]() is not decoder:
            self._made = weakref.ref(decoder), self._new(decoder.vae, known)
        return self._made[1]

    def _new(self, vae: Any, known: PreviewFactors | None) -> Sketch:
        factors = known or factors_of(vae, self._cache)
        return self._tiny_sketch(vae, factors) or LinearSketch(factors, vae.device)

    def _tiny_sketch(self, vae: Any, factors: PreviewFactors) -> TinySketch | None:
        """A tiny autoencoder's sketch, if one is installed that fits the VAE."""
        try:
            model = load_tiny(self._tiny, vae.device, vae.dtype)
        except CheckpointError as error:
            _warn(error.message)
            return None
        if model is None:
            return None
        tiny = TinySketch(model, factors.spread)
        shares = [tiny.explained(sample) for sample in samples(vae, _TRIALS)]
        if min(shares) >= LEAST_EXPLAINED:
            return tiny
        _warn(f"{self._tiny.name} belongs to another VAE")
        return None


def _warn(reason: str) -> None:
    log.warning("no tiny autoencoder", extra={"fields": {"reason": reason}})
