"""Textual inversions of a job, by the words that stand for them."""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from ..checkpoints.textual_inversion import TextualInversion, read_textual_inversion
from ..errors import InvalidRequest
from ..fetch.weight_file import WeightFile
from .tokens import Embeddings, uses


def read_embeddings(
    files: Iterable[tuple[WeightFile, str | None]], texts: Sequence[str], width: int
) -> tuple[Embeddings, tuple[str, ...]]:
    """Read textual inversions, each with the word that the job chose for it, or None.

    Returns the vectors by word, and a warning for each file none of whose words is in
    ``texts``. ``width`` is that of the text encoder. Raises CheckpointError, and
    InvalidRequest for a word that two files share, or one chosen for a file of several
    words.
    """
    embeddings: dict[str, Tensor] = {}
    warnings: list[str] = []
    for i, (file, token) in enumerate(files):
        field = f"embeddings.{i}.token"
        inversion = read_textual_inversion(file, width)
        if token is None:
            words = _default_words(inversion, file, texts)
        else:
            words = _chosen_word(inversion, token, field)
        for word, vectors in words.items():
            if word.lower() in {other.lower() for other in embeddings}:
                allowed = "a word that no other embedding stands for"
                raise InvalidRequest(field, word, allowed)
            embeddings[word] = vectors
        if not _are_used(words, texts):
            warnings.append(f"{file.name}: {_listed(words)} in no prompt that is read")
    return embeddings, tuple(warnings)


def _chosen_word(
    inversion: TextualInversion, token: str, field: str
) -> Mapping[str, Tensor]:
    if len(inversion.words) > 1:
        words = ", ".join(map(str, inversion.words))
        allowed = f"none, because the file has several words: {words}"
        raise InvalidRequest(field, token, allowed)
    (vectors,) = inversion.words.values()
    return {token: vectors}


def _default_words(
    inversion: TextualInversion, file: WeightFile, texts: Sequence[str]
) -> Mapping[str, Tensor]:
    """The words in the file. Without any, it is the file's name.

    It is the name that the file gives itself, if only that is in the prompts.
    """
    default, title = file.word, inversion.title
    if title and not _are_used([default], texts) and _are_used([title], texts):
        default = title
    return {word or default: vectors for word, vectors in inversion.words.items()}


def _are_used(words: Iterable[str], texts: Sequence[str]) -> bool:
    return any(uses(text, word) for text in texts for word in words)


def _listed(words: Iterable[str]) -> str:
    names = list(words)
    number = "its word {} is" if len(names) == 1 else "its words {} are"
    return number.format(", ".join(names))
