"""Prompts as token ids, with the words of textual inversions among them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Embeddings = Mapping[str, Tensor]
"""Textual inversions: vectors (n, d) per word of a prompt (arXiv 2208.01618)."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """Padded token ids, (1, 77).

    ``vectors`` replace the embeddings of single tokens, by position. ``cut`` is the end
    of the text that does not fit, "" if all of it fits.
    """

    ids: Tensor
    cut: str = ""
    vectors: Mapping[int, Tensor] = field(default_factory=dict[int, Tensor])


def tokenize(tokenizer: Any, text: str, embeddings: Embeddings | None = None) -> Tokens:
    """Tokenize ``text`` for CLIP.

    Each word of ``embeddings``, in any case, becomes as many tokens as it has vectors.
    """
    pattern = _word_pattern(embeddings or {})
    if pattern is None or not pattern.search(text):
        return _plain_tokens(tokenizer, text)
    pieces = _pieces(tokenizer, pattern.split(text), embeddings or {})
    return _joined_tokens(tokenizer, list(pieces))


def _plain_tokens(tokenizer: Any, text: str) -> Tokens:
    room = tokenizer.model_max_length
    padded = tokenizer(
        text,
        padding="max_length",
        max_length=room,
        truncation=True,
        return_tensors="pt",
    )
    whole = tokenizer(text, verbose=False).input_ids
    cut = ""
    if len(whole) > room:
        cut = tokenizer.decode(whole[room - 1 : -1]).strip()
    return Tokens(padded.input_ids, cut)


def _pieces(
    tokenizer: Any, parts: Sequence[str], embeddings: Embeddings
) -> Iterator[int | Tensor]:
    """Yield a token id or a vector for each token of the text's parts."""
    by_word = {word.lower(): vectors for word, vectors in embeddings.items()}
    for part in parts:
        if part.lower() in by_word:
            yield from by_word[part.lower()]
        else:
            yield from tokenizer(
                part, add_special_tokens=False, verbose=False
            ).input_ids


def _joined_tokens(tokenizer: Any, pieces: Sequence[int | Tensor]) -> Tokens:
    """Put begin, end and padding around the pieces that fit."""
    room = tokenizer.model_max_length
    kept, rest = pieces[: room - 2], pieces[room - 2 :]
    vectors = {i: piece for i, piece in enumerate(kept, 1) if isinstance(piece, Tensor)}
    ids = [0 if isinstance(piece, Tensor) else piece for piece in kept]
    ids = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
    ids += [tokenizer.pad_token_id] * (room - len(ids))
    return Tokens(torch.tensor([ids]), _cut_words(tokenizer, rest), vectors)


def _cut_words(tokenizer: Any, rest: Sequence[int | Tensor]) -> str:
    words = tokenizer.decode([piece for piece in rest if isinstance(piece, int)])
    return words.strip() or ("a textual inversion" if rest else "")


def uses(text: str, word: str) -> bool:
    """Whether ``tokenize`` finds ``word`` of a textual inversion in ``text``."""
    pattern = _word_pattern({word: torch.empty(0)})
    return pattern is not None and pattern.search(text) is not None


def _word_pattern(embeddings: Embeddings) -> re.Pattern[str] | None:
    """Return a pattern for every word that stands alone, the longest word first."""
    if not embeddings:
        return None
    longest_first = sorted(embeddings, key=len, reverse=True)
    words = "|".join(re.escape(word) for word in longest_first)
    return re.compile(rf"(?<!\w)({words})(?!\w)", re.IGNORECASE)
