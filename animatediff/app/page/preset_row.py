"""The presets of the form: ours to choose from, and a person's own to keep."""

from collections.abc import Mapping
from typing import Any

from ...errors import AnimateDiffError
from ..desk import Desk
from ..presets import preset_of, presets, save_preset
from ..views import note
from .fields import Fields
from .toolkit import QUIET, gr


def preset_row(desk: Desk, model: str) -> Any:
    """Build the choice of presets for a base model."""
    return gr.Radio(
        choices=preset_names(desk, model), label="Presets", elem_id="presets"
    )


def preset_names(desk: Desk, model: str) -> list[tuple[str, str]]:
    """Return the titles and names of the presets for a base model."""
    listed = presets(desk.folder, model)
    return [(f"{each.name} · {each.line}", each.name) for each in listed]


def wire_presets(
    desk: Desk, radio: Any, fields: Fields, accordions: Mapping[str, Any]
) -> None:
    """Let a preset fill the form, and open the group that a person fills in next."""

    def fill(name: str, *values: Any) -> list[Any]:
        job, preset = fields.job(values), preset_of(desk.folder, name)
        opened = preset.opens if preset else None
        opens = [
            gr.update(open=True) if group == opened else gr.skip()
            for group in accordions
        ]
        return [*fields.filled({**job, **(preset.values if preset else {})}), *opens]

    radio.input(
        fill,
        [radio, *fields.inputs],
        [*fields.outputs, *accordions.values()],
        **QUIET,
    )


def keep_row(desk: Desk, model: str, radio: Any, fields: Fields, message: Any) -> None:
    """Build what keeps the form as a preset."""

    def keep(name: str, *values: Any) -> tuple[Any, str]:
        try:
            save_preset(desk.folder, name, fields.job(values))
        except AnimateDiffError as error:
            return gr.skip(), note(error.message)
        kept = gr.update(choices=preset_names(desk, model))
        return kept, note(f"The preset {name.strip()} is kept.")

    with gr.Row(elem_classes=["keep"]):
        name = gr.Textbox(
            label="Keep these settings as a preset",
            placeholder="a name",
            max_length=60,
            elem_id="preset-name",
        )
        button = gr.Button("Keep", size="sm", min_width=80, elem_id="keep")
    button.click(keep, [name, *fields.inputs], [radio, message], **QUIET)
