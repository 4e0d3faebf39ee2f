"""Turns pydantic's validation errors into our own: field, what came, what is allowed.

The words for what is allowed come from the model's JSON schema, so that a message, the
documentation and a client's form agree.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic_core import ErrorDetails

from ..errors import InvalidRequest, shorten
from .fields import PRINTABLE, Most, marker, private_fields

MAX_PROBLEMS = 20
"""Wrong fields that an answer lists after the first one."""

Schema = Mapping[str, Any]
Model = TypeVar("Model", bound=BaseModel)
_TYPES: Mapping[type, str] = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}
_OWN_WORDS = ("value_error", "assertion_error")
_BOUNDS = {
    "minimum": "of at least",
    "maximum": "of at most",
    "exclusiveMinimum": "above",
    "exclusiveMaximum": "below",
}
_SHORT = 36
"""Characters of a wrong value that leave room for its type in a message."""


@dataclass(frozen=True)
class Problem:
    """One wrong field: its path, what came, and what is allowed.

    ``is_sentence``: ``allowed`` says all, such as that there is no such field.
    """

    field: str
    got: Any
    allowed: str
    is_sentence: bool = False

    def __str__(self) -> str:
        if self.is_sentence:
            return self.allowed
        return f"got {shorten(self.got)}, allowed: {self.allowed}"


def validated(
    model: type[Model], raw: Any, *, place: str = "", noun: str = "field"
) -> Model:
    """``raw`` as a ``model``. Raises InvalidRequest for its first wrong field.

    ``place`` stands before every field's name, such as a file and an entry of it;
    ``noun`` is what a field is called there. Further wrong fields are in ``problems``.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        wrong = islice(problems(error, model, raw, noun=noun), 1 + MAX_PROBLEMS)
        first, *more = wrong
        field = f"{place}: {first.field}" if place else first.field
        others = [(each.field, each.got, each.allowed) for each in more]
        raise InvalidRequest(
            field, first.got, first.allowed, others, is_sentence=first.is_sentence
        ) from None


def problems(
    error: ValidationError,
    model: type[BaseModel],
    raw: Any,
    *,
    noun: str = "field",
    whole: str = "input",
) -> Iterator[Problem]:
    """Every wrong field of ``raw``, which is no ``model``.

    ``noun`` is what a field is called; ``whole`` is the name of ``raw`` itself.
    """
    details = error.errors(include_url=False)
    places = [detail["loc"] for detail in details]
    for detail in details:
        place: tuple[Any, ...] = detail["loc"]
        if detail["type"] == "too_short" and _is_above(place, places):
            continue  # a list is counted without its wrong items
        field = shorten(".".join(map(str, place))) or whole
        if detail["type"] == "extra_forbidden":
            got, allowed = _size(detail["input"]), _unknown(model, place, noun)
            yield Problem(field, got, allowed, True)
        elif detail["type"] == "missing":
            yield Problem(field, None, f"this {noun} is needed", True)
        else:
            yield _wrong_value(field, detail, model, raw)


def _wrong_value(
    field: str, detail: ErrorDetails, model: type[BaseModel], raw: Any
) -> Problem:
    kind, place, value = detail["type"], detail["loc"], detail["input"]
    allowed = _message(kind, detail["msg"]) or _allowed(model, place, raw)
    is_open = bool(place) and place[0] not in private_fields(model)
    got = _came(kind, value) if is_open else _size(value)
    return Problem(field, got, allowed or _lowered(detail["msg"]))


def _is_above(place: Sequence[Any], places: Iterable[Sequence[Any]]) -> bool:
    depth = len(place)
    return any(len(other) > depth and other[:depth] == place for other in places)


def _message(kind: str, message: str) -> str | None:
    """The allowed values where an error's own message names them."""
    if kind == "string_unicode":
        return PRINTABLE
    return message.partition(", ")[2] if kind in _OWN_WORDS else None


def _lowered(message: str) -> str:
    text = message.removeprefix("Input should be ")
    return text[0].lower() + text[1:]


def _came(kind: str, value: object) -> object:
    """``value``, with its type if that is what is wrong."""
    name = _TYPES.get(type(value))
    if name is None or not _is_about_the_type(kind, value):
        return value
    short = shorten(value, _SHORT)
    if isinstance(value, str):
        short = f'"{short}"'
    elif isinstance(value, bool):
        short = str(value).lower()
    return f"{short} ({name})"


def _size(value: object) -> object:
    """Return the part of a value that may be shown: it may be a prompt, or hold one.

    Fields are misspelt, and whole jobs come as text.
    """
    if isinstance(value, str):
        return f"{len(value)} characters ({_TYPES[str]})"
    if value and isinstance(value, list | dict):
        count = len(cast(list[Any], value))
        return f"{count} items ({_TYPES[type(cast(object, value))]})"
    return _came("_type", value)


def _is_about_the_type(kind: str, value: object) -> bool:
    if kind == "literal_error":
        return not isinstance(value, str)
    return kind.endswith(("_type", "_parsing", "_from_float"))


def _unknown(model: type[BaseModel], place: Sequence[Any], noun: str) -> str:
    parent = _node(model, place[:-1]) or {}
    names = list(parent.get("properties", ()))
    near = nearest(str(place[-1]), names)
    guess = f"did you mean {near}? " if near else ""
    return f"no such {noun}; {guess}there are {', '.join(names)}"


def nearest(name: str, names: Sequence[str]) -> str | None:
    """The one of ``names`` that a misspelt ``name`` most likely means, or None."""
    name = name[:100].lower()
    parts = [each for each in names if name in each] if len(name) > 3 else []
    matches = parts or difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    return matches[0] if matches else None


def _allowed(model: type[BaseModel], place: Sequence[Any], raw: Any) -> str | None:
    """The allowed values at ``place``, in words; None where the schema has none."""
    if len(place) == 1:
        return allowed_words(model, str(place[0]), raw)
    node = _node(model, place)
    return None if node is None else words(node)


def allowed_words(
    model: type[BaseModel], name: str, raw: Mapping[str, Any] | None = None
) -> str | None:
    """The allowed values of the field ``name``, in words; None if the schema has none.

    Where ``raw`` decides the field that a limit depends on, only that limit is named.
    """
    node = _node(model, (name,))
    if node is None:
        return None
    limit = marker(model.model_fields[name], Most)
    return _limited_words(node, limit, raw or {}) if limit else words(node)


def _limited_words(node: Schema, limit: Most, raw: Mapping[str, Any]) -> str:
    choice = raw.get(limit.by)
    if isinstance(choice, str) and choice in limit.limits:
        return f"{words({**node, 'maximum': limit.of(choice)})} with {choice}"
    return f"{words(node)}; {limit}"


@cache
def _schema(model: type[BaseModel]) -> Schema:
    try:
        return model.model_json_schema()
    except PydanticInvalidForJsonSchema:  # it has fields that no JSON can express
        return {"properties": {name: {"title": name} for name in model.model_fields}}


def _node(model: type[BaseModel], place: Sequence[Any]) -> Schema | None:
    """The part of the JSON schema that describes ``place``."""
    root = _schema(model)
    node: Schema | None = root
    for step in place:
        if node is None:
            return None
        child = (
            node.get("items")
            if isinstance(step, int)
            else node.get("properties", {}).get(step)
        )
        node = plain(child, root) if child else None
    return node


def plain(node: Schema, root: Schema) -> Schema:
    """``node`` of the schema ``root`` without null and with its reference followed."""
    options = [
        option for option in node.get("anyOf", ()) if option.get("type") != "null"
    ]
    inner = cast(Schema, options[0]) if options else node
    if "$ref" in inner:
        inner = root["$defs"][inner["$ref"].rpartition("/")[2]]
    if "items" in inner:
        inner = {**inner, "items": plain(inner["items"], root)}
    return inner


def words(node: Schema) -> str:
    """A plain node of a JSON schema in words, such as "an integer from 1 to 60"."""
    if "enum" in node:
        return f"one of {', '.join(map(str, node['enum']))}"
    if "const" in node:
        return str(node["const"])
    describe = _WORDS.get(node.get("type", ""))
    return describe(node) if describe else "another value"


def _number_words(node: Schema) -> str:
    noun = "an integer" if node["type"] == "integer" else "a finite number"
    parts = [noun, *_range_words(node)]
    if "multipleOf" in node:
        parts[-1] += ","
        parts.append(f"a multiple of {node['multipleOf']}")
    return " ".join(parts)


def _range_words(node: Schema) -> Iterator[str]:
    if "minimum" in node and "maximum" in node:
        yield f"from {node['minimum']} to {node['maximum']}"
        return
    for key, bound in _BOUNDS.items():
        if key in node:
            yield f"{bound} {node[key]}"


def _text_words(node: Schema) -> str:
    return _counted(
        "text", "character", node.get("minLength", 0), node.get("maxLength")
    )


def _list_words(node: Schema) -> str:
    listed = _counted("a list", "item", node.get("minItems", 0), node.get("maxItems"))
    return f"{listed}, each {words(node['items'])}" if "items" in node else listed


def _counted(noun: str, unit: str, low: int, high: int | None) -> str:
    if high is None:
        return f"{noun} of at least {low} {unit}s" if low else noun
    bounds = f"{low} to {high}" if low else f"at most {high}"
    return f"{noun} of {bounds} {unit}s"


def _boolean_words(_node: Schema) -> str:
    return "true or false"


def _object_words(node: Schema) -> str:
    names = ", ".join(node.get("properties", ()))
    return f"an object with {names}" if names else "an object"


_WORDS: Mapping[str, Callable[[Schema], str]] = {
    "integer": _number_words,
    "number": _number_words,
    "string": _text_words,
    "boolean": _boolean_words,
    "array": _list_words,
    "object": _object_words,
}
