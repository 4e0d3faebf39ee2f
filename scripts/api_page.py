"""The generated parts of docs/api.md: the OpenAPI document and the errors, to read."""

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from animatediff.errors import ADVICE, retryability
from animatediff.job.validation import plain, words
from schemas.openapi import document

_COLUMNS = 100
_SHOWN = ("JobRequest", "Policy", "JobStatus", "JobProgress", "JobOutput", "JobError")
"""The objects with a table of their own; jobs.md has that of JobInput."""
Json = Mapping[str, Any]


def row(*cells: object) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def operations() -> str:
    """Return all operations, each with its parameters, examples and answers."""
    page = _Operations()
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            page.add(f"{method.upper()} {path}", operation)
    return "\n".join(page.lines).rstrip()


class _Operations:
    """The lines of all operations. An example is shown once, where it comes first."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._shown: dict[str, str] = {}

    def add(self, heading: str, operation: Json) -> None:
        """Add an operation."""
        text = f"{operation['summary']}. {operation['description']}"
        self.lines += [f"### {heading}", "", textwrap.fill(text, _COLUMNS), ""]
        if parameters := operation.get("parameters"):
            self.lines += [*_parameters(parameters), ""]
        if body := operation.get("requestBody"):
            self._examples("Body", heading, body)
        answers = operation["responses"]
        self._examples("Answer", heading, answers["200"])
        others = ", ".join(status for status in answers if status != "200")
        self.lines += [f"Other answers: {others}; see [below](#http-answers).", ""]

    def _examples(self, title: str, heading: str, content: Json) -> None:
        media = content["content"]["application/json"]
        places: dict[str, None] = {}
        for each in media["examples"].values():
            text = spread(each["value"])
            if text in self._shown:
                places[self._shown[text]] = None
                continue
            self._shown[text] = heading
            title_line = f"{title}: {_lowered(each['summary'])}"
            self.lines += [title_line, "", "```json", text, "```", ""]
        if places:
            self.lines += [f"{title}: see also {' and '.join(places)}.", ""]


def _parameters(parameters: Sequence[Json]) -> Iterator[str]:
    yield from (row("parameter", "meaning", "allowed"), row(*["---"] * 3))
    for each in parameters:
        name = f"`{each['name']}`, in the {each['in']}"
        yield row(name, each["description"], words(each["schema"]))


def _lowered(text: str) -> str:
    return text[0].lower() + text[1:]


def spread(value: Any, indent: int = 0) -> str:
    """Return ``value`` as JSON in which whatever fits a line is on one."""
    line = json.dumps(value)
    if len(line) + indent <= _COLUMNS or not isinstance(value, dict | list):
        return line
    inner = indent + 1
    if isinstance(value, dict):
        items = [f"{json.dumps(k)}: {spread(v, inner)}" for k, v in value.items()]
        start, end = "{}"
    else:
        items = [spread(each, inner) for each in value]
        start, end = "[]"
    space = "\n" + " " * inner
    return start + space + f",{space}".join(items) + "\n" + " " * indent + end


def http_answers() -> str:
    """Return the answers of the platform that are no job's, as a Markdown table."""
    answers = document()["components"]["responses"]
    rows = [row("status", "meaning"), row("---", "---")]
    rows += [
        row(name.removeprefix("Http"), each["description"])
        for name, each in answers.items()
    ]
    return "\n".join(rows)


def objects() -> str:
    """Return the fields of the objects that clients read, as Markdown tables."""
    schemas = document()["components"]["schemas"]
    lines: list[str] = []
    for name in _SHOWN:
        schema = schemas[name]
        meaning = textwrap.fill(_sentence(schema["description"]), _COLUMNS)
        lines += [f"### {name}", "", meaning, ""]
        if "oneOf" in schema:
            lines += [*_states(schema, schemas), ""]
        lines += [*_fields(schema, schemas), ""]
    return "\n".join(lines).rstrip()


def _sentence(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


def _options(schema: Json, schemas: Json) -> dict[str, Json]:
    """The alternatives of a schema by the status that selects them."""
    mapping = schema["discriminator"]["mapping"]
    return {status: schemas[_referent(link)] for status, link in mapping.items()}


def _referent(link: str) -> str:
    return link.rpartition("/")[2]


def _states(schema: Json, schemas: Json) -> Iterator[str]:
    yield from (row("`status`", "meaning"), row("---", "---"))
    for status, option in _options(schema, schemas).items():
        yield row(f"`{status}`", _sentence(option["description"]))


def _fields(schema: Json, schemas: Json) -> Iterator[str]:
    yield from (row("field", "value", "meaning"), row(*["---"] * 3))
    if "oneOf" not in schema:
        for name, node in schema["properties"].items():
            yield row(
                f"`{name}`", _words(node, schemas), _sentence(node["description"])
            )
        return
    options = _options(schema, schemas)
    shared = set[str].intersection(
        *(set(one["properties"]) for one in options.values())
    )
    seen: set[str] = set()
    for status, option in options.items():
        for name, node in option["properties"].items():
            if name == "status" or name in seen:
                continue
            seen |= {name} & shared
            place = f"`{name}`" if name in shared else f"`{name}` if {status}"
            yield row(place, _words(node, schemas), _sentence(node["description"]))


def _words(node: Json, schemas: Json) -> str:
    """The allowed values of a field: the name of an object, or words."""
    links = [each.get("$ref") for each in (node, *node.get("anyOf", ()))]
    for link in filter(None, links):
        return f"`{_referent(link)}`"
    return words(plain(node, {"$defs": schemas}))


def error_codes() -> str:
    """Return every code of an error with its meaning and its remedy."""
    rows = [
        row("code", "meaning", "retryable", "remedy", "further fields"),
        row(*["---"] * 5),
    ]
    for kind, advice in ADVICE.items():
        code, details = f"`{kind.code}`", advice.details or "-"
        rows.append(
            row(code, advice.meaning, retryability(kind), advice.remedy, details)
        )
    return "\n".join(rows)
