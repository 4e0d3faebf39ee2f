"""Typed access to a model's ``config.json``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from ..errors import CheckpointError


@dataclass(frozen=True)
class ConfigFile:
    """The content of a ``config.json``; ``name`` is how messages call it.

    Every method raises CheckpointError if the value is missing or of another type.
    """

    name: str
    values: Mapping[str, object]

    def integer(self, key: str) -> int:
        """A whole number."""
        value = self._required(key)
        if not isinstance(value, int):
            raise self._type_error(key, "a whole number")
        return value

    def number(self, key: str, default: float) -> float:
        """A number, or ``default`` where the key is missing."""
        value = self.values.get(key, default)
        if not isinstance(value, int | float):
            raise self._type_error(key, "a number")
        return value

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers, with at least one."""
        items = self._items(key)
        numbers = tuple(item for item in items if isinstance(item, int))
        if not numbers or len(numbers) < len(items):
            raise self._type_error(key, "a list of whole numbers")
        return numbers

    def strings(self, key: str) -> tuple[str, ...]:
        """A list of texts, with at least one."""
        items = self._items(key)
        texts = tuple(item for item in items if isinstance(item, str))
        if not texts or len(texts) < len(items):
            raise self._type_error(key, "a list of texts")
        return texts

    def _items(self, key: str) -> tuple[object, ...]:
        value = self._required(key)
        if not isinstance(value, list | tuple):
            raise self._type_error(key, "a list")
        return tuple(cast("list[object] | tuple[object, ...]", value))

    def _required(self, key: str) -> object:
        if key not in self.values:
            raise CheckpointError(f"{self.name} has no {key}", key=key)
        return self.values[key]

    def _type_error(self, key: str, expected: str) -> CheckpointError:
        value = self.values.get(key)
        return CheckpointError(
            f"{self.name}: {key} is {value!r}; expected {expected}", key=key
        )
