"""Textual inversion files (arXiv 2208.01618): vectors that stand in a prompt for
something without a word.

Layouts: {token: vectors} as diffusers saves it, {"emb_params": vectors} of kohya's
trainer, and AUTOMATIC1111's {"string_to_param": {"*": vectors}} beside counters.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from .detect import TEXT_WIDTHS, described
from .files import read_weights

_PLACEHOLDERS = ("*", "emb_params")


@dataclass(frozen=True, eq=False)
class TextualInversion:
    """``vectors`` (n, width) for ``token``; None where the file does not say the token."""

    name: str
    token: str | None
    vectors: Tensor


def read_textual_inversion(path: str | Path, width: int) -> TextualInversion:
    """Read a textual inversion for a text encoder whose tokens have ``width`` numbers.
    SD 1.5's have 768.

    Raises AssetError where there is no file; CheckpointError for one of another kind,
    for another text encoder, or with numbers that are not finite.
    """
    name = Path(path).name
    weights = read_weights(path)
    key, vectors = next(iter(weights.items()))
    if (
        len(weights) > 1
        or vectors.ndim not in (1, 2)
        or not vectors.is_floating_point()
    ):
        raise CheckpointError(
            f"{name} is not a textual inversion of SD 1.5: it is {described(weights)}",
            file=name,
        )
    vectors = vectors.detach()
    if vectors.shape[-1] != width:
        maker = (
            f" ({TEXT_WIDTHS[vectors.shape[-1]]})"
            if vectors.shape[-1] in TEXT_WIDTHS
            else ""
        )
        raise CheckpointError(
            f"{name} is a textual inversion of width {vectors.shape[-1]}{maker}; this"
            f" text encoder's is {width}",
            file=name,
        )
    vectors = vectors.reshape(-1, width)
    if not len(vectors) or not torch.isfinite(vectors.float()).all():
        raise CheckpointError(
            f"{name} has no vectors, or some that are not finite", file=name
        )
    return TextualInversion(name, None if key in _PLACEHOLDERS else key, vectors)
