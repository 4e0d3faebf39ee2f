"""The rows of the form as components: one for each field of a job."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..desk import defaults
from ..form import TITLES, Row, job_of, rows, values_of
from ..installed import Choices
from ..lists import LISTS, Entries
from ..views import controls, files
from .toolkit import gr

PAGE_ROWS = ("preview",)
"""Rows that the page itself decides."""
FRAMES = 16
"""Frames of a strip while the form leaves the number open."""
MOST_FRAMES = 128
_OPEN = "default"
_NONE = "none"


@dataclass(frozen=True, eq=False)
class Field:
    """A row and the component that holds its value.

    A list is held by a state; ``view`` shows its entries, and ``picker`` adds one.
    """

    row: Row
    component: Any
    view: Any = None
    picker: Any = None

    def shown(self, entries: Entries, frames: Any, message: str = "") -> str:
        """Return the entries of a list as HTML."""
        if self.row.name != "controls":
            return files(self.row.name, entries, message)
        return controls(entries, strip_frames(frames), message)

    def value(self, job: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
        """Return the change of the component that shows the row in ``job``."""
        if self.view is not None:
            return tuple(job.get(self.row.name) or ())
        return gr.update(value=values[self.row.name], **unmarked(self.row))

    def marked(self, messages: Mapping[str, str]) -> Any:
        """Return the change of the component that shows its message, or none."""
        if self.view is not None:
            return gr.skip()
        if self.row.name not in messages:
            return gr.update(**unmarked(self.row))
        words = f"⚠ {messages[self.row.name]}"
        return gr.update(info=words, elem_classes=["field", "wrong"])


@dataclass(frozen=True, eq=False)
class Fields:
    """All fields of the form, in its order."""

    fields: tuple[Field, ...]

    @property
    def inputs(self) -> list[Any]:
        """The components that hold the values."""
        return [field.component for field in self.fields]

    @property
    def outputs(self) -> list[Any]:
        """The components to fill: all values, then the views of the lists."""
        return [*self.inputs, *(field.view for field in self.lists)]

    @property
    def lists(self) -> list[Field]:
        """The fields that are lists of files."""
        return [field for field in self.fields if field.view is not None]

    @property
    def numbers(self) -> list[Field]:
        """The fields of numbers."""
        return [field for field in self.fields if field.row.kind == "number"]

    def __getitem__(self, name: str) -> Field:
        """Return the field of this name."""
        return next(field for field in self.fields if field.row.name == name)

    def job(self, values: Sequence[Any]) -> dict[str, Any]:
        """Return the job that the values of ``inputs`` ask for."""
        names = [field.row.name for field in self.fields]
        return job_of(dict(zip(names, values, strict=True)))

    def filled(self, job: Mapping[str, Any]) -> list[Any]:
        """Return changes of ``outputs`` that show ``job``, without any message."""
        values = values_of(job)
        shown = [field.value(job, values) for field in self.fields]
        return [*shown, *self._views(job, {})]

    def marked(self, job: Mapping[str, Any], messages: Mapping[str, str]) -> list[Any]:
        """Return changes of ``outputs`` that show ``messages`` at their fields."""
        shown = [field.marked(messages) for field in self.fields]
        return [*shown, *self._views(job, messages)]

    def _views(
        self, job: Mapping[str, Any], messages: Mapping[str, str]
    ) -> Iterator[str]:
        for field in self.lists:
            name = field.row.name
            entries = tuple(job.get(name) or ())
            yield field.shown(entries, job.get("num_frames"), messages.get(name, ""))

    def placeholders(self, model: str, motion_module: str) -> list[Any]:
        """Return changes of the numbers' components: what they are if left empty."""
        known = defaults(model, motion_module)
        names = [field.row.name for field in self.numbers]
        return [gr.update(placeholder=str(known.get(name, ""))) for name in names]


def strip_frames(value: Any) -> int:
    """Return the frames of a strip for the value of the row of frames."""
    text = str(value or "").strip()
    is_count = text.isdecimal() and 0 < int(text) <= MOST_FRAMES
    return int(text) if is_count else FRAMES


def rows_by_title() -> dict[str, list[Row]]:
    """Return the rows of the page by the titles of their groups."""
    groups: dict[str, list[Row]] = {title: [] for title in TITLES.values()}
    for row in rows():
        if row.name not in PAGE_ROWS:
            groups[TITLES[row.group]].append(row)
    return groups


def is_list(row: Row) -> bool:
    """Whether a row is a list of files, with entries of its own."""
    return row.name in LISTS


def options(row: Row, installed: Choices) -> list[tuple[str, str]]:
    """Return the titles and values that a row of choices offers."""
    is_open = row.value in (None, "")
    first = [(_OPEN if row.kind == "choice" else _NONE, "")] if is_open else []
    return [*first, *(installed.get(row.name) or row.choices)]


def widget(row: Row, installed: Choices) -> Any:
    """Return the component of a row that is no list of files."""
    look = {"label": row.label, "elem_id": f"field-{row.name}", **unmarked(row)}
    if is_choice(row, installed):
        return gr.Dropdown(
            choices=options(row, installed),
            value=row.value or "",
            allow_custom_value=row.others or row.kind == "text",
            **look,
        )
    if row.kind == "number":
        return _number(row, look)
    if row.kind == "switch":
        return gr.Checkbox(value=bool(row.value), **look)
    return gr.Textbox(value=row.value, lines=row.lines, **look)


def _number(row: Row, look: Mapping[str, Any]) -> Any:
    """A text, because Gradio's own number cannot be empty: it would become 0."""
    shown = "" if row.value is None else str(row.value)
    return gr.Textbox(value=shown, max_lines=1, **look)


def is_choice(row: Row, installed: Choices) -> bool:
    """Whether a row offers choices: of a table, or of what is installed."""
    return row.kind == "choice" or row.name in installed or row.name in _NAMED


_NAMED = ("vae", "dreambooth")
"""Rows of text that name a file."""


def unmarked(row: Row) -> dict[str, Any]:
    """How the component of a row looks without a message."""
    return {"info": row.line, "elem_classes": ["field"]}
