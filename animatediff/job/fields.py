"""The declaration of a job's field, and the types that fields share."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.annotated_handlers import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import core_schema

MAX_PROMPT = 4000
"""Characters. CLIP reads 77 tokens; the rest leaves room for comments."""
MAX_REFERENCE = 1000
"""Characters of a reference to a weight file."""

FILE_METADATA = {
    "none": "nothing",
    "no_prompts": "all but the prompts",
    "full": "the whole job",
}
"""How much a file may reveal about its job, the least first."""

PRINTABLE = "text without NUL and lone surrogates"

Mark = TypeVar("Mark")
Group = Literal["prompt", "size", "sampling", "weights", "control", "output"]
"""The part of a form that shows a field."""


class Strict(BaseModel):
    """Base of every object of a job: no unknown field, no conversion, no NaN."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, frozen=True
    )


@dataclass(frozen=True, eq=False)
class Shown:
    """Marks where a field appears outside the job itself.

    ``echo``: the job's output repeats the value. ``yaml``: the key of the YAML files
    for scripts/animate.py, where it differs from the field's name. ``by_model``: a job
    may leave the field out, and gets the default of the model in use.
    """

    group: Group
    echo: bool = True
    yaml: str = ""
    by_model: bool = False


class Private:
    """Marks a text that appears in no error and no log: a prompt."""


@dataclass(frozen=True, eq=False)
class Names:
    """Lists the rows of a table that a field may name, each with its title.

    ``others`` describes what else the field accepts; if empty, only the names are
    accepted.
    """

    titles: Mapping[str, str]
    others: str = ""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        if self.others:
            return handler(source)
        return core_schema.literal_schema(list(self.titles))

    def __str__(self) -> str:
        """All names with their titles, for a description."""
        rows = [f"{name}: {title}" for name, title in self.titles.items()]
        if self.others:
            rows.append(f"or {self.others}")
        return "; ".join(rows)


@dataclass(frozen=True, eq=False)
class Most:
    """Bounds a number by what another field, ``by``, names.

    ``resolve`` checks the bound, once both fields are decided, so that a job meets one
    limit in one message. The JSON schema shows the largest of the limits.
    """

    by: str
    limits: Mapping[str, int]

    def of(self, choice: Any) -> int:
        """The limit with ``choice``; the largest one for a choice without a row."""
        limit = self.limits.get(choice) if isinstance(choice, str) else None
        return max(self.limits.values()) if limit is None else limit

    def __str__(self) -> str:
        """The limits below the largest, each with the names that it belongs to."""
        named: dict[int, list[str]] = {}
        for name, limit in self.limits.items():
            named.setdefault(limit, []).append(name)
        *smaller, _largest = sorted(named)
        return "; ".join(
            f"at most {limit} with {', '.join(named[limit])}" for limit in smaller
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), "maximum": max(self.limits.values())}


def _printable(text: str) -> str:
    if "\0" in text:  # pydantic refuses lone surrogates
        raise ValueError(PRINTABLE)
    return text


def _path_as_text(value: Any) -> Any:
    return str(value) if isinstance(value, PurePath) else value


Printable = AfterValidator(_printable)
Text = Annotated[str, Field(max_length=MAX_PROMPT), Printable, Private()]
Reference = Annotated[
    str,
    Field(min_length=1, max_length=MAX_REFERENCE),
    Printable,
    BeforeValidator(_path_as_text),
]
"""Names a weight file, see ``animatediff.fetch.references``.

From Python, a path object is accepted and kept as text.
"""
Pixels = Annotated[int, Field(ge=64, le=2048, multiple_of=8)]
Listed = Field(strict=False)
"""Marks a tuple that may also be written as a list."""


def marker(info: FieldInfo, kind: type[Mark]) -> Mark | None:
    """The mark of the class ``kind`` that a field carries, or None."""
    marks = [*info.metadata]
    for option in get_args(info.annotation):  # of a field that may be None
        marks += getattr(option, "__metadata__", ())
    return next((mark for mark in marks if isinstance(mark, kind)), None)


def private_fields(model: type[BaseModel]) -> frozenset[str]:
    """The fields of ``model`` that hold prompts."""
    return frozenset(
        name for name, info in model.model_fields.items() if marker(info, Private)
    )


def shown(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo, Shown]]:
    """Every field of ``model`` that is marked ``Shown``, with its mark."""
    for name, info in model.model_fields.items():
        mark = marker(info, Shown)
        if mark is not None:
            yield name, info, mark


def echoed(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of ``model`` that a job's output repeats."""
    return {name: info for name, info, mark in shown(model) if mark.echo}


def echo(value: BaseModel) -> dict[str, Any]:
    """The values of the fields that a job's output repeats."""
    return {name: getattr(value, name) for name in echoed(type(value))}
