"""Textual inversion files: vectors that a word of a prompt stands for.

Source: arXiv 2208.01618.

Layouts: {word: vectors} of diffusers, with one word or several; {"emb_params": vectors}
of kohya's trainer; {"string_to_param": {"*": vectors}} of the first trainer and of
AUTOMATIC1111; a tensor alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..errors import CheckpointError
from ..families.recognition import model_of_embedding_keys, model_of_text_width
from ..fetch.weight_file import AnyFile, WeightFile
from .detect import described, is_table_of_words
from .files import BARE, check_finite, read_content

_PLACEHOLDERS = (BARE, "emb_params", "")
_MOST_WORDS = 100


@dataclass(frozen=True, eq=False)
class TextualInversion:
    """``words`` of the file, each with its vectors (n, width).

    The word is None for vectors that the file gives no word. ``title`` is the name that
    it gives itself.
    """

    name: str
    words: Mapping[str | None, Tensor]
    title: str | None = None


def read_textual_inversion(file: AnyFile, width: int) -> TextualInversion:
    """Read a textual inversion for a text encoder whose tokens have ``width`` numbers.

    Raises AssetError if there is no file; CheckpointError if it is of another kind, for
    another text encoder, or has numbers that are not finite.
    """
    file = WeightFile.of(file)
    content = read_content(file)
    weights = content.weights
    _check_kind(file.name, weights)
    for vectors in weights.values():
        _check_width(file.name, vectors.shape[-1], width)
    check_finite(file.name, weights)
    words = {
        None if key in _PLACEHOLDERS else key: vectors.detach().reshape(-1, width)
        for key, vectors in weights.items()
    }
    return TextualInversion(file.name, words, content.title)


def _check_kind(name: str, weights: Mapping[str, Tensor]) -> None:
    is_named = len(weights) == 1 or not set(_PLACEHOLDERS) & weights.keys()
    is_other = model_of_embedding_keys(weights) is not None
    is_real = all(vectors.is_floating_point() for vectors in weights.values())
    if is_other or not (is_named and is_real and is_table_of_words(weights)):
        raise CheckpointError(
            f"{name} is not a textual inversion for this model: it is"
            f" {described(weights)}",
            file=name,
        )
    if not all(vectors.numel() for vectors in weights.values()):
        raise CheckpointError(f"{name} has no vectors", file=name)
    if len(weights) > _MOST_WORDS:
        raise CheckpointError(
            f"{name} holds {len(weights)} words; allowed: at most {_MOST_WORDS}",
            file=name,
        )


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
