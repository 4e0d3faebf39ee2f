"""Token ids to text embeddings, with CLIP's text encoder."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidRequest
from .tokens import Embeddings, tokenize


@dataclass(frozen=True, eq=False)
class Prompt:
    """Text embeddings, (1, n, d).

    ``cut`` is the end of the text that CLIP has no room for, "" if all of it fits.
    """

    embeds: Tensor
    cut: str = ""


def encode_ids(
    text_encoder: Any,
    ids: Tensor,
    clip_skip: int = 0,
    vectors: Mapping[int, Tensor] | None = None,
) -> Tensor:
    """Encode token ids (b, n) as (b, n, d).

    The last ``clip_skip`` layers are left out; the final norm is not. ``vectors`` (d)
    replace the embeddings at their positions. Raises InvalidRequest if the text encoder
    has too few layers.
    """
    layers = text_encoder.config.num_hidden_layers
    if not 0 <= clip_skip < layers:
        allowed = f"0 to {layers - 1} with this model's text encoder"
        raise InvalidRequest("clip_skip", clip_skip, allowed)
    ids = ids.to(text_encoder.device)
    with _replaced(text_encoder, vectors or {}):
        if clip_skip == 0:
            return text_encoder(ids).last_hidden_state
        states = text_encoder(ids, output_hidden_states=True).hidden_states
    return text_encoder.final_layer_norm(states[-(clip_skip + 1)])


@contextmanager
def _replaced(text_encoder: Any, vectors: Mapping[int, Tensor]) -> Generator[None]:
    """Put ``vectors`` in place of the token embeddings at their positions, for a while.

    The weights stay as they are.
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
    """Encode one prompt. Raises InvalidRequest as ``encode_ids`` does."""
    tokens = tokenize(tokenizer, text, embeddings)
    embeds = encode_ids(text_encoder, tokens.ids, clip_skip, tokens.vectors)
    return Prompt(embeds, tokens.cut)
