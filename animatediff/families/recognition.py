"""Which model a weight file was made for, as far as its keys and shapes show it."""

import re
from collections.abc import Iterable

from . import DEFAULT, MODELS
from .base import ModelMarks


def marked_model(keys: Iterable[str]) -> ModelMarks | None:
    """The model of a single file by the prefix that only its files have, if any."""
    names = tuple(keys)
    for model in MODELS:
        mark = model.single_file_mark
        if mark and any(name.startswith(mark) for name in names):
            return model
    return None


def model_of_single_file(keys: Iterable[str]) -> ModelMarks:
    """The model of a single file; one without any model's mark is the default's."""
    return marked_model(keys) or DEFAULT


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
    return next(
        (
            model
            for model in MODELS
            if width is not None and width == model.context_width
        ),
        None,
    )
