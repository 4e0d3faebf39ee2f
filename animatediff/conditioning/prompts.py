"""Prompts -> text embeddings, by CLIP as SD 1.5 uses it."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidRequest

Embeddings = Mapping[str, Tensor]
"""Textual inversions: the word of a prompt, and the vectors (n, d) that it stands for
(arXiv 2208.01618).
"""


@dataclass(frozen=True, eq=False)
class Prompt:
    """``embeds`` (1, n, d); ``cut`` is the end of the text that CLIP has no room for,
    "" if all of it fitted.
    """

    embeds: Tensor
    cut: str = ""


@dataclass(frozen=True, eq=False)
class Tokens:
    """Token ids (1, 77), padded; ``vectors`` take the place of a token's own embedding,
    by its position.
    """

    ids: Tensor
    cut: str = ""
    vectors: Mapping[int, Tensor] = field(default_factory=dict)


def tokenize(tokenizer: Any, text: str, embeddings: Embeddings | None = None) -> Tokens:
    """``text`` as CLIP reads it, each word of ``embeddings`` (in any case) as so many
    tokens as it has vectors.
    """
    room = tokenizer.model_max_length
    words = _words(embeddings or {})
    if words is None or not words.search(text):
        ids = tokenizer(
            text,
            padding="max_length",
            max_length=room,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        whole = tokenizer(text, verbose=False).input_ids
        return Tokens(
            ids,
            tokenizer.decode(whole[room - 1 : -1]).strip() if len(whole) > room else "",
        )
    by_word = {word.lower(): vectors for word, vectors in (embeddings or {}).items()}
    sequence: list[int | Tensor] = []
    for piece in words.split(text):
        if piece.lower() in by_word:
            sequence += list(by_word[piece.lower()])
        else:
            sequence += tokenizer(
                piece, add_special_tokens=False, verbose=False
            ).input_ids
    kept, rest = sequence[: room - 2], sequence[room - 2 :]
    vectors = {i: token for i, token in enumerate(kept, 1) if isinstance(token, Tensor)}
    ids = [0 if isinstance(token, Tensor) else token for token in kept]
    ids = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
    ids += [tokenizer.pad_token_id] * (room - len(ids))
    words_cut = tokenizer.decode(
        [token for token in rest if isinstance(token, int)]
    ).strip()
    return Tokens(
        torch.tensor([ids]),
        words_cut or ("a textual inversion" if rest else ""),
        vectors,
    )


def uses(text: str, word: str) -> bool:
    """Whether ``tokenize`` would find ``word`` of a textual inversion in ``text``."""
    words = _words({word: torch.empty(0)})
    return words is not None and words.search(text) is not None


def _words(embeddings: Embeddings) -> re.Pattern[str] | None:
    """Finds every word of ``embeddings``, the longest first, where it stands alone."""
    if not embeddings:
        return None
    words = "|".join(
        re.escape(word) for word in sorted(embeddings, key=len, reverse=True)
    )
    return re.compile(rf"(?<!\w)({words})(?!\w)", re.IGNORECASE)


def encode_ids(
    text_encoder: Any,
    ids: Tensor,
    clip_skip: int = 0,
    vectors: Mapping[int, Tensor] | None = None,
) -> Tensor:
    """Token ids (b, n) -> (b, n, d). ``clip_skip`` layers at the end are left out; the
    final norm is not.

    ``vectors`` (d) replace the embeddings at their positions. Raises InvalidRequest
    where the text encoder has no so many layers.
    """
    layers = text_encoder.config.num_hidden_layers
    if not 0 <= clip_skip < layers:
        raise InvalidRequest(
            "clip_skip", clip_skip, f"0 to {layers - 1} with this model's text encoder"
        )
    ids = ids.to(text_encoder.device)
    with _replaced(text_encoder, vectors or {}):
        if clip_skip == 0:
            return text_encoder(ids).last_hidden_state
        hidden = text_encoder(ids, output_hidden_states=True).hidden_states[
            -(clip_skip + 1)
        ]
    return text_encoder.final_layer_norm(hidden)


@contextmanager
def _replaced(text_encoder: Any, vectors: Mapping[int, Tensor]) -> Iterator[None]:
    """The text encoder with ``vectors`` in place of the token embeddings at their
    positions. Its weights stay.
    """
    if not vectors:
        yield
        return

    def replace(_module: Any, _inputs: Any, embedded: Tensor) -> Tensor:
        embedded = embedded.clone()
        for position, vector in vectors.items():
            embedded[:, position] = vector.to(embedded)
        return embedded

    hook = text_encoder.get_input_embeddings().register_forward_hook(replace)
    try:
        yield
    finally:
        hook.remove()


@torch.inference_mode()
def encode_prompt(
    tokenizer: Any,
    text_encoder: Any,
    text: str,
    clip_skip: int = 0,
    embeddings: Embeddings | None = None,
) -> Prompt:
    """The text condition of one prompt. Raises InvalidRequest as ``encode_ids`` does."""
    tokens = tokenize(tokenizer, text, embeddings)
    return Prompt(
        encode_ids(text_encoder, tokens.ids, clip_skip, tokens.vectors), tokens.cut
    )
