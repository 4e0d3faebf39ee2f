"""Prompts -> text embeddings, by CLIP as SD 1.5 uses it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidRequest


@dataclass(frozen=True, eq=False)
class Prompt:
    """``embeds`` (1, n, d); ``cut`` is the end of the text that CLIP has no room for, "" if all of it fitted."""

    embeds: Tensor
    cut: str = ""


def tokenize(tokenizer: Any, text: str) -> tuple[Tensor, str]:
    """Token ids (1, 77), padded; and the part of ``text`` that was cut off."""
    room = tokenizer.model_max_length
    ids = tokenizer(text, padding="max_length", max_length=room, truncation=True, return_tensors="pt").input_ids
    whole = tokenizer(text, verbose=False).input_ids
    return ids, tokenizer.decode(whole[room - 1 : -1]).strip() if len(whole) > room else ""


def encode_ids(text_encoder: Any, ids: Tensor, clip_skip: int = 0) -> Tensor:
    """Token ids (b, n) -> (b, n, d). ``clip_skip`` layers at the end are left out; the final norm is not.

    Raises InvalidRequest where the text encoder has no so many layers.
    """
    layers = text_encoder.config.num_hidden_layers
    if not 0 <= clip_skip < layers:
        raise InvalidRequest("clip_skip", clip_skip, f"0 to {layers - 1} with this model's text encoder")
    ids = ids.to(text_encoder.device)
    if clip_skip == 0:
        return text_encoder(ids).last_hidden_state
    hidden = text_encoder(ids, output_hidden_states=True).hidden_states[-(clip_skip + 1)]
    return text_encoder.final_layer_norm(hidden)


@torch.inference_mode()
def encode_prompt(tokenizer: Any, text_encoder: Any, text: str, clip_skip: int = 0) -> Prompt:
    """The text condition of one prompt. Raises InvalidRequest as ``encode_ids`` does."""
    ids, cut = tokenize(tokenizer, text)
    return Prompt(encode_ids(text_encoder, ids, clip_skip), cut)
