"""THE TABLE of families of image models. One family is one file and one row here.

Nothing outside this room names a family (``tests/families`` looks for it): code takes
the family as a value, and messages take ``family.name``.
"""

from collections.abc import Mapping

from .base import Family, ModelMarks, ModelPart, TextEncoder
from .foreign import OTHER_MODELS
from .sd15 import SD15

FAMILIES: Mapping[str, Family] = {"sd15": SD15}

DEFAULT = SD15
"""The family to assume where there is no model yet whose files would tell."""

MODELS: tuple[ModelMarks, ...] = (*OTHER_MODELS, *FAMILIES.values())
"""All models whose files are recognised."""

__all__ = [
    "DEFAULT",
    "FAMILIES",
    "MODELS",
    "OTHER_MODELS",
    "SD15",
    "Family",
    "ModelMarks",
    "ModelPart",
    "TextEncoder",
]
