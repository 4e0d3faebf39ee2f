"""The image models that a job may name, collected from the families."""

from collections.abc import Mapping

from ..families import DEFAULT, FAMILIES
from ..families.base import BaseModel

BASE_MODELS: Mapping[str, BaseModel] = {
    name: row
    for family in FAMILIES.values()
    for name, row in family.base_models.items()
}
"""By name; the first one that is installed is the default."""
DEFAULT_MODEL = next(iter(DEFAULT.base_models))
"""The model to name where none is installed."""


def base_model(name: str) -> BaseModel:
    """The row of ``name``, or of the default model for a folder."""
    return BASE_MODELS.get(name, BASE_MODELS[DEFAULT_MODEL])
