"""Environment variables as documentation and error messages describe them.

The descriptions follow from a declaration of settings: types, bounds and defaults.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings


@dataclass(frozen=True)
class Words:
    """Facts that a setting's type does not hold: allowed values, unit, default."""

    allowed: str = ""
    unit: str = ""
    default: str = ""


@dataclass(frozen=True)
class Variable:
    """One environment variable, as the documentation and error messages describe it.

    ``default`` describes the value without the variable, in Markdown. ``names`` are the
    variable's name and its synonyms.
    """

    field: str
    meaning: str
    allowed: str
    default: str
    names: tuple[str, ...]
    secret: bool


def _words(field: FieldInfo) -> Words:
    rows = [each for each in field.metadata if isinstance(each, Words)]
    return rows[-1] if rows else Words()


def _plain_type(field: FieldInfo) -> Any:
    """The annotation of ``field`` without None."""
    members = [each for each in get_args(field.annotation) if each is not NoneType]
    is_optional = NoneType in get_args(field.annotation)
    return members[0] if is_optional else field.annotation


def _range(field: FieldInfo, unit: str) -> str:
    low = next(each.ge for each in field.metadata if isinstance(each, Ge))
    high = next(each.le for each in field.metadata if isinstance(each, Le))
    kind = "a whole number" if _plain_type(field) is int else "a number"
    return f"{kind} from {_grouped(low)} to {_grouped(high)} {unit}".rstrip()


def _grouped(bound: Any) -> str:
    return f"{bound:,}".removesuffix(".0")


def _allowed(field: FieldInfo) -> str:
    kind, words = _plain_type(field), _words(field)
    if words.allowed:
        return words.allowed
    if get_origin(kind) is Literal:
        return ", ".join(get_args(kind))
    if kind in (int, float):
        return _range(field, words.unit)
    return {bool: "0 or 1", Path: "a path"}.get(kind, "text")


def _default(field: FieldInfo) -> str:
    words, default = _words(field), field.default
    if words.default:
        return words.default
    if field.is_required():
        return "required for a bucket"
    if default is None:
        return "-"
    if isinstance(default, bool):
        return f"`{int(default)}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def _names(field_name: str, field: FieldInfo, prefix: str) -> tuple[str, ...]:
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        return tuple(str(choice) for choice in alias.choices)
    return (str(alias or prefix + field_name.upper()),)


def variables_of(declaration: type[BaseSettings]) -> Mapping[str, Variable]:
    """The environment variables of ``declaration``: its fields with a description."""
    prefix = declaration.model_config.get("env_prefix", "")
    rows: dict[str, Variable] = {}
    for field_name, field in declaration.model_fields.items():
        if field.description is None:
            continue
        names = _names(field_name, field, prefix)
        rows[names[0]] = Variable(
            field=field_name,
            meaning=field.description,
            allowed=_allowed(field),
            default=_default(field),
            names=names,
            secret=_plain_type(field) is SecretStr,
        )
    return MappingProxyType(rows)
