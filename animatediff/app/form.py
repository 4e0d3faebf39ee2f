"""The form of a job, made from the job's own fields: one row for each.

A row holds a value of JSON, or text. ``job_of`` leaves empty rows out, so that they get
the model's defaults.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from pydantic.fields import FieldInfo

from ..errors import AnimateDiffError
from ..job.clip import GenerationRequest
from ..job.fields import Group, Names, Private, marker, shown
from ..job.validation import plain

Kind = Literal["text", "choice", "number", "switch", "json"]
"""How a row is shown: JSON is for lists and objects. A number may come as text."""
TITLES: Mapping[Group, str] = {
    "prompt": "Prompt",
    "size": "Size and length",
    "sampling": "Sampling",
    "weights": "Weights",
    "control": "Control",
    "output": "Output",
}
"""The groups of rows, in their order."""
_LARGEST_NUMBER = 2**53
"""Browsers round larger whole numbers, so those are text."""


_LABELS = {
    "num_frames": "Frames",
    "num_inference_steps": "Steps",
    "fps": "Frames a second",
    "model": "Image model",
    "vae": "VAE",
    "dreambooth": "DreamBooth",
    "loras": "LoRAs and MotionLoRAs",
    "embeddings": "Textual inversions",
    "controls": "SparseCtrl",
}
"""Names in the words of the field, where they differ from a job's."""


@dataclass(frozen=True)
class Row:
    """A field of the form.

    ``choices`` are pairs of a title and a value; with ``others`` more are allowed.
    ``value`` is what an empty form shows.
    """

    name: str
    group: Group
    kind: Kind
    info: str
    value: Any = None
    choices: tuple[tuple[str, str], ...] = ()
    others: bool = False
    whole: bool = False
    lines: int = 1

    @property
    def label(self) -> str:
        """The name in words."""
        return _LABELS.get(self.name) or self.name.replace("_", " ").capitalize()

    @property
    def line(self) -> str:
        """The description without the choices, which the row shows itself."""
        if self.kind != "choice":
            return self.info
        return self.info.partition(". ")[0].removesuffix(".") + "."


def rows() -> tuple[Row, ...]:
    """Return the rows of all fields of a job, in the order of their groups."""
    order = list(TITLES)
    return tuple(sorted(_rows(), key=lambda row: order.index(row.group)))


def _rows() -> Iterator[Row]:
    schema = GenerationRequest.model_json_schema()
    for name, info, mark in shown(GenerationRequest):
        node = plain(schema["properties"][name], schema)
        yield _row(name, info, mark.group, node)


def _row(name: str, info: FieldInfo, group: Group, node: Mapping[str, Any]) -> Row:
    names = marker(info, Names)
    titles: Mapping[str, str] = names.titles if names else {}
    kind = "choice" if titles else _kind(node)
    default = info.get_default(call_default_factory=True)
    return Row(
        name=name,
        group=group,
        kind=kind,
        info=info.description or "",
        value=default if kind in ("switch", "number", "choice") else "",
        choices=tuple((f"{key}: {title}", key) for key, title in titles.items()),
        others=names is not None and bool(names.others),
        whole=node.get("type") == "integer",
        lines=2 if marker(info, Private) else 1,
    )


def _kind(node: Mapping[str, Any]) -> Kind:
    kind = node.get("type")
    if kind == "boolean":
        return "switch"
    if kind in ("integer", "number"):
        is_small = node.get("maximum", 0) <= _LARGEST_NUMBER
        return "number" if is_small else "text"
    return "json" if kind in ("array", "object") else "text"


def job_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the job that a filled form asks for.

    Rows that are empty, or as in an empty form, are left out. Text that is no JSON
    stays text, so that the job's check refuses it in its words.
    """
    job: dict[str, Any] = {}
    for row in rows():
        value = _sent(row, values.get(row.name))
        if value not in (None, "", [], (), row.value):
            job[row.name] = value
    job.setdefault("prompt", "")
    return job


def _sent(row: Row, value: Any) -> Any:
    if isinstance(value, str) and (row.kind in ("json", "number") or row.whole):
        value = _parsed(value)
    if isinstance(value, float) and row.whole and value.is_integer():
        return int(value)
    return value


def _parsed(text: str) -> Any:
    try:
        return json.loads(text) if text.strip() else None
    except ValueError:
        return text


def values_of(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return what every row of the form shows for ``job``."""
    return {row.name: _shown(row, job.get(row.name)) for row in rows()}


def _shown(row: Row, value: Any) -> Any:
    if value is None:
        return row.value
    if row.kind == "json":
        listed = cast(Sequence[Any], value)
        return json.dumps(value, indent=1) if len(listed) else ""
    return str(value) if row.kind in ("text", "number") else value


def messages_of(error: AnimateDiffError) -> dict[str, str]:
    """Return the message for each row that ``error`` is about.

    It is empty if no row is to blame.
    """
    details = [error.details, *error.details.get("problems", ())]
    return dict(reversed([_message(each) for each in details if "field" in each]))


def _message(details: Mapping[str, Any]) -> tuple[str, str]:
    field: str = details["field"]
    place = field.partition(".")[0]
    inner = f"{field}: " if place != field else ""
    got = "" if details["got"] is None else f"got {details['got']}, allowed: "
    return place, f"{inner}{got}{details['allowed']}"
