"""The linear map of a VAE, fitted by least squares to what the VAE itself encodes.

The pictures are drawn here, so that a fit needs no file and is always the same: smooth
colours, edges and textures in all colours.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..atomic import written_whole
from ..autoencoder import encode_pixels
from ..families.base import PreviewFactors

PICTURES = 12
MOST_SIDE = 256
"""Pixels along the side of a picture."""
_SEED = 20230710
_pooled = cast(Callable[[Tensor, int], Tensor], functional.avg_pool2d)


@dataclass(frozen=True)
class Fit:
    """Factors, and their error on the pictures they were fitted to.

    ``error`` is the root of the mean square of the differences, in levels of 0..255;
    ``explained`` is the share of the pixels' variance that the map shows.
    """

    factors: PreviewFactors
    error: float
    explained: float


@dataclass(frozen=True, eq=False)
class Sample:
    """Latents (c, n), and the mean colours (3, n) of the pixels that they stand for.

    Colours are 0..1. Both are float64 on the CPU.
    """

    latents: Tensor
    colours: Tensor

    @classmethod
    def of(cls, latents: Tensor, pixels: Tensor) -> "Sample":
        """Return the sample of latents (c, f, h, w) and their frames (3, f, H, W)."""
        scale = pixels.shape[-1] // latents.shape[-1]
        colours = _pooled(pixels.float(), scale)
        return cls(_columns(latents), _columns(colours))


def _columns(values: Tensor) -> Tensor:
    return values.flatten(1).double().cpu()


def fit(vae: Any) -> Fit:
    """Fit the factors of ``vae`` to pictures of many colours.

    A VAE that overflows in its type on all of them is shown as gray.
    """
    known = [each for each in samples(vae) if each.latents.isfinite().all()]
    if known:
        return fitted(known)
    rows = ((0.0,) * 3,) * vae.config.latent_channels
    return Fit(PreviewFactors(rows, (0.5,) * 3), 127.5, 0.0)


def fitted(known: Sequence[Sample]) -> Fit:
    """Fit factors to samples by least squares."""
    latents = torch.cat([each.latents for each in known], dim=1)
    colours = torch.cat([each.colours for each in known], dim=1)
    inputs = torch.cat([latents, torch.ones_like(latents[:1])]).T  # (n, c + 1)
    solution, *_ = np.linalg.lstsq(inputs.numpy(), colours.T.numpy())  # (c + 1, 3)
    *rows, bias = (tuple(map(float, row)) for row in solution)
    factors = PreviewFactors(tuple(rows), bias, float(latents.std()))
    return Fit(factors, *error_of(factors, known))


def errors_of(shown: Tensor, colours: Tensor) -> tuple[float, float]:
    """Return the error and the explained share of ``shown`` colours, see ``Fit``.

    Both are (3, n), 0..1.
    """
    left = (shown - colours).square().mean().item()
    variance = (colours - colours.mean(dim=1, keepdim=True)).square().mean().item()
    return 255 * math.sqrt(left), 1 - left / variance


def error_of(factors: PreviewFactors, known: Sequence[Sample]) -> tuple[float, float]:
    """Return the error and the explained share of ``factors`` on other samples."""
    latents = torch.cat([each.latents for each in known], dim=1)
    colours = torch.cat([each.colours for each in known], dim=1)
    rows, bias = (
        torch.tensor(factors.rows).double(),
        torch.tensor(factors.bias).double(),
    )
    return errors_of((rows.T @ latents + bias[:, None]).clamp(0, 1), colours)


def samples(vae: Any, count: int = PICTURES) -> Iterator[Sample]:
    """Encode the first ``count`` pictures, one after the other."""
    side = min(MOST_SIDE, vae.config.sample_size)
    for picture in islice(pictures(side), count):
        frame = picture[:, None]  # (3, 1, side, side)
        yield Sample.of(encode_pixels(vae, frame[None])[0], frame)


def pictures(side: int) -> Iterator[Tensor]:
    """Draw pictures (3, side, side), 0..1: a surface, areas with edges, and grain."""
    source = torch.Generator().manual_seed(_SEED)
    for index in range(PICTURES):
        surface = _field(source, 3, 2 + index % 5, side) * 0.6 + 0.5
        for _ in range(index % 4):
            area = _field(source, 1, 3, side) > 0.3
            colour = torch.rand(3, 1, 1, generator=source)
            surface = torch.where(area, colour, surface)
        grain = _field(source, 1, side // 4, side) * 0.05 * (index % 3)
        yield (surface + grain).clamp(0, 1)


def _field(source: torch.Generator, channels: int, cells: int, side: int) -> Tensor:
    coarse = torch.randn(1, channels, cells, cells, generator=source)
    return functional.interpolate(coarse, (side, side), mode="bicubic")[0]


def fingerprint(vae: Any) -> str:
    """The sha256 of all weights of ``vae``, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(vae.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        plain = tensor.detach().cpu().contiguous()
        digest.update(plain.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def factors_of(vae: Any, folder: Path) -> PreviewFactors:
    """The factors of ``vae``: those kept in ``folder`` under its hash, or a new fit.

    What cannot be read or written there is fitted again.
    """
    path = folder / f"{fingerprint(vae)}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        return _read(path)
    factors = fit(vae).factors
    with suppress(OSError), written_whole(path) as part:
        part.write_text(json.dumps(asdict(factors)), encoding="utf-8")
    return factors


def _read(path: Path) -> PreviewFactors:
    kept = json.loads(path.read_text(encoding="utf-8"))
    rows = tuple(tuple(map(float, row)) for row in kept["rows"])
    return PreviewFactors(rows, tuple(map(float, kept["bias"])), float(kept["spread"]))
