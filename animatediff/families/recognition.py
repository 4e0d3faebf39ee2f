"""Which model a weight file was made for, as far as its keys and shapes show it."""

import re
from collections.abc import Iterable

from . import DEFAULT, MODELS, OTHER_MODELS
from .base import ModelMarks


def marked_model(keys: Iterable[str], width: int | None = None) -> ModelMarks | None:
    """The model of a single file by the prefixes that only its files have, if any.

    Without such a prefix, ``width`` decides, see ``model_of_context_width``.
    """
    names = tuple(keys)
    for model in MODELS:
        marks = model.single_file_marks
        if marks and any(name.startswith(marks) for name in names):
            return model
    return model_of_context_width(width)


def model_of_context_width(width: int | None) -> ModelMarks | None:
    """The model whose cross-attention reads text of ``width`` numbers a vector."""
    if width is None:
        return None
    return next((model for model in MODELS if model.context_width == width), None)


def model_of_single_file(keys: Iterable[str], width: int | None = None) -> ModelMarks:
    """The model of a single file; one without any model's mark is the default's."""
    return marked_model(keys, width) or DEFAULT


def others_with_latents(channels: int) -> str:
    """The models that do not run here whose latents have ``channels``, in words."""
    models = (model.name for model in OTHER_MODELS if model.latent_channels == channels)
    return "" if channels == DEFAULT.latent_channels else " or ".join(models)


def model_of_text_width(width: int) -> ModelMarks | None:
    """The model whose textual inversions have vectors of ``width`` numbers."""
    return next((model for model in MODELS if model.text_width == width), None)


def model_of_embedding_keys(keys: Iterable[str]) -> ModelMarks | None:
    """The model whose textual inversions have exactly these keys."""
    names = frozenset(keys)
    return next((model for model in MODELS if model.embedding_keys == names), None)


def model_of_lora(layers: Iterable[str], width: int | None) -> ModelMarks | None:
    """The model of a LoRA, None if nothing shows it.

    ``layers`` are its names with underscores, ``width`` that of the text which its
    cross-attention layers read, if it has any.
    """
    names = tuple(layers)
    for model in MODELS:
        mark = model.lora_mark
        if mark and any(re.search(mark, name) for name in names):
            return model
    return model_of_context_width(width)
