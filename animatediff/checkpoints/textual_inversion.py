"""Textual inversion files: vectors that a word of a prompt stands for.

Source: arXiv 2208.01618.

Layouts: {token: vectors} of diffusers, {"emb_params": vectors} of kohya's trainer, and
AUTOMATIC1111's {"string_to_param": {"*": vectors}} beside counters.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..families.recognition import model_of_text_width
from .detect import described
from .files import read_weights

_PLACEHOLDERS = ("*", "emb_params")


@dataclass(frozen=True, eq=False)
class TextualInversion:
    """``vectors`` (n, width) for ``token``; None if the file does not name it."""

    name: str
    token: str | None
    vectors: Tensor


def read_textual_inversion(path: str | Path, width: int) -> TextualInversion:
    """Read a textual inversion for a text encoder whose tokens have ``width`` numbers.

    Raises AssetError if there is no file; CheckpointError if it is of another kind, for
    another text encoder, or has numbers that are not finite.
    """
    name = Path(path).name
    weights = read_weights(path)
    key, vectors = next(iter(weights.items()))
    is_table = vectors.ndim in (1, 2) and vectors.is_floating_point()
    if len(weights) > 1 or not is_table:
        raise CheckpointError(
            f"{name} is not a textual inversion for this model: it is"
            f" {described(weights)}",
            file=name,
        )
    _check_width(name, vectors.shape[-1], width)
    vectors = vectors.detach().reshape(-1, width)
    if not len(vectors) or not torch.isfinite(vectors.float()).all():
        raise CheckpointError(
            f"{name} has no vectors, or some that are not finite", file=name
        )
    return TextualInversion(name, None if key in _PLACEHOLDERS else key, vectors)


def _check_width(name: str, file_width: int, width: int) -> None:
    if file_width == width:
        return
    model = model_of_text_width(file_width)
    origin = f" ({model.name})" if model else ""
    raise CheckpointError(
        f"{name} is a textual inversion of width {file_width}{origin}; this text"
        f" encoder's is {width}",
        file=name,
    )
