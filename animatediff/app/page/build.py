"""The whole page: the form, the result and the gallery, wired to a desk."""

from pathlib import Path
from typing import Any

from ...errors import EncodeError, InvalidRequest
from ..desk import Desk, Tile
from ..gallery import job_inside
from ..views import note, stage
from .form_panel import FormPanel, form_panel
from .gallery_panel import GalleryPanel, gallery_panel
from .making import Making
from .preset_row import preset_names
from .result_panel import ResultPanel, result_panel
from .toolkit import QUIET, EventData, Request, act_of, gr

TITLE = "AnimateDiff"
_TO_THE_TOP = "() => window.scrollTo({top: 0, behavior: 'smooth'})"


def build(desk: Desk, model: str) -> Any:
    """Return the page. ``model`` is the base model of jobs that name none."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as page:
        _heading(f"<h1>{TITLE}</h1><p>Clips from words, by {desk.backend.title}.</p>")
        with gr.Row(elem_id="main", equal_height=False):
            with gr.Column(elem_id="form", min_width=320):
                form = form_panel(desk, model)
            with gr.Column(elem_id="result", min_width=320):
                result = result_panel(desk)
        _heading("<h2>Gallery</h2>")
        gallery = gallery_panel(desk)
        seen = ([gallery.words, gallery.most], gallery.view)
        Making(desk, form, result).wire().then(gallery.refresh, *seen, **QUIET)
        _wire_gallery(desk, form, result, gallery)
        _wire_drop(form, gallery)
        page.load(gallery.refresh, *seen, **QUIET)
        page.load(_presets(desk, model), None, form.presets, **QUIET)
        page.unload(_leaving(desk))
    return page


def _heading(html: str) -> None:
    gr.HTML(html, elem_classes=["heading"], apply_default_css=False)


def _presets(desk: Desk, model: str) -> Any:
    """Return what offers the presets that are there when the page is opened."""
    return lambda: gr.update(choices=preset_names(desk, model))


def _leaving(desk: Desk) -> Any:
    def leave(request: Request) -> None:
        desk.studio.cancel(request.session_hash)

    return leave


def _wire_gallery(
    desk: Desk, form: FormPanel, result: ResultPanel, gallery: GalleryPanel
) -> None:
    """Let a clip of the gallery be shown, and fill the form."""
    outputs = [result.stage, form.message, *result.outputs, *form.fields.outputs]

    def show(event: EventData) -> list[Any]:
        path = desk.named(str(act_of(event).get("value")))
        if path is None:
            return [gr.skip()] * len(outputs)
        clip = desk.clip(path)
        words = f"The settings of {path.name} are in the form."
        return [
            stage([Tile(clip.job, None, None, clip)]),
            note(words if clip.job else f"{path.name} holds no settings."),
            *result.shown([clip]),
            *form.fields.filled(clip.job),
        ]

    shown = gallery.view.input(show, None, outputs, **QUIET)
    shown.then(None, None, None, js=_TO_THE_TOP)


def _wire_drop(form: FormPanel, gallery: GalleryPanel) -> None:
    """Let a dropped clip fill the form with its settings."""
    outputs = [form.message, *form.fields.outputs]

    def take(path: str | None) -> list[Any]:
        try:
            again = job_inside(Path(path or ""))
        except (EncodeError, InvalidRequest) as error:
            return [note(error.message), *[gr.skip()] * (len(outputs) - 1)]
        gaps = "".join(f" Not in the file: {gap}." for gap in again.gaps)
        words = f"The settings of {Path(path or '').name} are in the form.{gaps}"
        return [note(words), *form.fields.filled(again.fields)]

    gallery.drop.upload(take, gallery.drop, outputs, **QUIET)
