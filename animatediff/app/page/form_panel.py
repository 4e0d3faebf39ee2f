"""The form: prompts, presets, and all fields of a job in their groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..desk import Desk
from ..form import TITLES, Row
from ..installed import Choices
from ..presets import PROMPTS
from ..studio import MAX_CLIPS
from .fields import Field, Fields, is_choice, is_list, options, rows_by_title, widget
from .list_row import list_row
from .preset_row import keep_row, preset_row, wire_presets
from .toolkit import QUIET, gr

_PROMPTS = ("prompt", "negative_prompt")
_GROUPS = {title: group for group, title in TITLES.items()}


@dataclass(frozen=True, eq=False)
class FormPanel:
    """The components of the form that other panels use."""

    fields: Fields
    count: Any
    make: Any
    cancel: Any
    problems: Any
    message: Any
    presets: Any


def form_panel(desk: Desk, model: str) -> FormPanel:
    """Build the form. ``model`` is the base model of jobs that name none."""
    groups, installed = rows_by_title(), desk.look().choices()
    prompts = [
        Field(row, widget(row, installed))
        for row in groups["Prompt"]
        if _is_prompt(row)
    ]
    _ideas(prompts[0].component, model)
    problems = gr.HTML("", elem_id="problems", apply_default_css=False)
    make, cancel, count = _go()
    message = gr.HTML("", elem_id="message", apply_default_css=False)
    radio = preset_row(desk, model)
    fields, accordions = list(prompts), dict[str, Any]()
    for title, rows in groups.items():
        rest = [row for row in rows if not _is_prompt(row)]
        shown = "More about the prompt" if title == "Prompt" else title
        with gr.Accordion(
            shown, open=False, elem_id=f"group-{_GROUPS[title]}"
        ) as group:
            fields += _group(rest, installed, Fields(tuple(fields)), message)
        accordions[_GROUPS[title]] = group
    whole = Fields(tuple(fields))
    wire_presets(desk, radio, whole, accordions)
    keep_row(desk, model, radio, whole, message)
    _look_again(desk, whole)
    _wire_placeholders(whole, model)
    return FormPanel(whole, count, make, cancel, problems, message, radio)


def _is_prompt(row: Row) -> bool:
    return row.name in _PROMPTS


def _ideas(prompt: Any, model: str) -> None:
    """Build buttons that fill in a prompt."""
    with gr.Row(elem_classes=["ideas"]):
        for words in PROMPTS.get(model, ()):
            button = gr.Button(words, size="sm", min_width=0)
            button.click(_giving(words), None, prompt, **QUIET)


def _giving(words: str) -> Any:
    return lambda: words


def _go() -> tuple[Any, Any, Any]:
    """Build the buttons that make clips and cancel, and the number of clips."""
    with gr.Row(elem_classes=["go"]):
        make = gr.Button(
            "Make the clip", variant="primary", elem_id="make", min_width=160
        )
        cancel = gr.Button(
            "Cancel", elem_id="cancel", interactive=False, min_width=90, scale=0
        )
        count = gr.Number(
            1, label="Clips, each with another seed", minimum=1, maximum=MAX_CLIPS,
            precision=0, elem_id="count", min_width=120,
        )  # fmt: skip
    return make, cancel, count


def _group(
    rows: Sequence[Row], installed: Choices, before: Fields, message: Any
) -> list[Field]:
    """Build the rows of a group: small ones side by side, then the lists."""
    with gr.Row(elem_classes=["rows"]):
        plain = [Field(row, widget(row, installed)) for row in rows if not is_list(row)]
    lists = [row for row in rows if is_list(row)]
    if not lists:
        return plain
    frames = before["num_frames"].component
    return plain + [list_row(row, installed, frames, message) for row in lists]


def _look_again(desk: Desk, fields: Fields) -> None:
    """Build the button that looks again for what is installed."""
    installed = desk.look().choices()
    shown = [field for field in fields.fields if _offers(field, installed)]

    def look() -> list[Any]:
        seen = desk.look().choices()
        return [gr.update(choices=options(field.row, seen)) for field in shown]

    button = gr.Button("Look again for installed models", size="sm", elem_id="look")
    button.click(
        look, None, [field.picker or field.component for field in shown], **QUIET
    )


def _offers(field: Field, installed: Choices) -> bool:
    return field.picker is not None or is_choice(field.row, installed)


def _wire_placeholders(fields: Fields, default: str) -> None:
    """Show in each empty number what the chosen model takes."""
    model, module = fields["model"].component, fields["motion_module"].component
    numbers = [field.component for field in fields.numbers]

    def show(name: str | None, motion: str | None) -> list[Any]:
        return fields.placeholders(name or default, motion or "")

    for chosen in (model, module):
        chosen.change(show, [model, module], numbers, **QUIET)
    for component, change in zip(
        numbers, fields.placeholders(default, ""), strict=True
    ):
        component.placeholder = change["placeholder"]
