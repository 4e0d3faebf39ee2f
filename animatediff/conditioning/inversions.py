"""Textual inversions of a job, by the words that stand for them."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from ..checkpoints.textual_inversion import read_textual_inversion
from ..errors import InvalidRequest
from ..fetch.weight_file import WeightFile
from .tokens import Embeddings, uses


def read_embeddings(
    files: Iterable[tuple[WeightFile, str | None]], texts: Sequence[str], width: int
) -> tuple[Embeddings, tuple[str, ...]]:
    """Read textual inversions, each with the word that the job chose for it, or None.

    Returns the vectors by word, and a warning for each word that none of ``texts``
    contains. ``width`` is that of the text encoder. Raises CheckpointError, and
    InvalidRequest for a word that two files share.
    """
    embeddings: dict[str, Tensor] = {}
    warnings: list[str] = []
    for i, (file, token) in enumerate(files):
        inversion = read_textual_inversion(file.path, width)
        word = token or inversion.token or file.path.stem
        if word.lower() in {other.lower() for other in embeddings}:
            allowed = "a word that no other embedding stands for"
            raise InvalidRequest(f"embeddings.{i}.token", word, allowed)
        embeddings[word] = inversion.vectors
        if not any(uses(text, word) for text in texts):
            warnings.append(f"{file.path.name}: its word {word} is in neither prompt")
    return embeddings, tuple(warnings)
