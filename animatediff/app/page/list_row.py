"""A row of the form that is a list: a choice of files, and what is in the list."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import InvalidRequest
from ..form import Row
from ..installed import Choices
from ..lists import Entries, after, picture_url, with_file, with_pictures
from ..views import note
from .fields import Field, options, strip_frames
from .toolkit import ACTS, QUIET, EventData, act_of, gr


def list_row(row: Row, installed: Choices, frames: Any, message: Any) -> Field:
    """Build the row. ``frames`` is the number of frames, ``message`` a line of HTML."""
    state = gr.State(())
    with gr.Column(elem_classes=["list"], elem_id=f"field-{row.name}"):
        picker = gr.Dropdown(
            choices=options(row, installed),
            value="",
            label=row.label,
            info=row.line,
            allow_custom_value=True,
        )
        upload = _upload() if row.name == "controls" else None
        view = gr.HTML(
            "", js_on_load=ACTS, apply_default_css=False, elem_classes=["entries-of"]
        )
    field = Field(row, state, view, picker)
    if upload is None:
        _wire_picker(field, frames)
    else:
        _wire_upload(field, upload, frames, message)
    _wire_view(field, frames)
    return field


def _upload() -> Any:
    return gr.UploadButton(
        "Add pictures for this control",
        file_count="multiple",
        file_types=["image"],
        size="sm",
        elem_id="pictures",
    )


def _wire_picker(field: Field, frames: Any) -> None:
    def add(path: str | None, entries: Entries, count: Any) -> tuple[Any, ...]:
        changed = with_file(entries, path or "")
        return changed, field.shown(changed, count), ""

    field.picker.input(
        add,
        [field.picker, field.component, frames],
        [field.component, field.view, field.picker],
        **QUIET,
    )


def _wire_upload(field: Field, upload: Any, frames: Any, message: Any) -> None:
    def add(
        paths: Sequence[str] | None, file: str | None, entries: Entries, count: Any
    ) -> tuple[Any, ...]:
        if not file:
            return entries, gr.skip(), note("Choose a control first.")
        try:
            urls = [picture_url(Path(path)) for path in paths or ()]
        except InvalidRequest as error:
            return entries, gr.skip(), note(error.message)
        changed = with_pictures(entries, file, urls, strip_frames(count))
        return changed, field.shown(changed, count), ""

    upload.upload(
        add,
        [upload, field.picker, field.component, frames],
        [field.component, field.view, message],
        **QUIET,
    )


def _wire_view(field: Field, frames: Any) -> None:
    def act(entries: Entries, count: Any, event: EventData) -> tuple[Any, ...]:
        changed = after(entries, act_of(event))
        return changed, field.shown(changed, count)

    def redraw(entries: Entries, count: Any) -> str:
        return field.shown(entries, count)

    outputs = [field.component, field.view]
    field.view.input(act, [field.component, frames], outputs, **QUIET)
    if field.row.name == "controls":
        frames.change(redraw, [field.component, frames], field.view, **QUIET)
