"""The result: the tiles of a click, and what can be done with a finished clip."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import AssetError, EncodeError
from ...video import OUTPUT_FORMATS
from ..copies import contact_sheet, in_format
from ..desk import Clip, Desk
from ..exports import EXPORTS
from ..views import EMPTY, facts, link, note
from .toolkit import QUIET, STAGE, gr

_SHEET = "contact sheet"
_DOWNLOAD = """(url) => {
  if (!url) return;
  const link = document.createElement('a');
  link.href = url; link.download = '';
  document.body.append(link); link.click(); link.remove();
}"""


@dataclass(frozen=True, eq=False)
class ResultPanel:
    """The components of the result. ``clips`` is a state with the finished clips."""

    stage: Any
    clips: Any
    chosen: Any
    facts: Any
    actions: Any
    texts: tuple[Any, ...]

    @property
    def outputs(self) -> list[Any]:
        """The components that ``shown`` changes."""
        return [self.clips, self.chosen, self.facts, self.actions, *self.texts]

    def shown(self, clips: Sequence[Clip], place: int = 0) -> list[Any]:
        """Return changes of ``outputs`` that show the clip at ``place``."""
        clip = clips[place] if clips else None
        titles = [(f"clip {i + 1}", i) for i in range(len(clips))]
        chosen = gr.update(choices=titles, value=place, visible=len(clips) > 1)
        texts = [write(clip.job) if clip else "" for write in EXPORTS.values()]
        has_clip = gr.update(visible=clip is not None)
        return [tuple(clips), chosen, facts(clip), has_clip, *texts]


def result_panel(desk: Desk) -> ResultPanel:
    """Build the result, still empty."""
    stage = gr.HTML(EMPTY, elem_id="stage", js_on_load=STAGE, apply_default_css=False)
    chosen = gr.Radio([], label="Which clip", visible=False, elem_id="which")
    about = gr.HTML("", elem_id="facts", apply_default_css=False)
    clips = gr.State(())
    with gr.Column(visible=False, elem_id="actions") as actions:
        _downloads(desk, clips, chosen)
        texts = _texts()
    panel = ResultPanel(stage, clips, chosen, about, actions, texts)

    def choose(known: Sequence[Clip], place: int) -> list[Any]:
        return panel.shown(known, place)

    chosen.input(choose, [clips, chosen], panel.outputs, **QUIET)
    return panel


def _texts() -> tuple[Any, ...]:
    """Build the texts to copy, one behind the other."""
    texts: list[Any] = []
    with gr.Accordion("Copy this job", open=False, elem_id="copies"), gr.Tabs():
        for title in EXPORTS:
            with gr.Tab(f"as {title}"):
                text = gr.Textbox(
                    label=title, lines=8, max_lines=20, buttons=["copy"],
                    elem_classes=["code"],
                )  # fmt: skip
            texts.append(text)
    return tuple(texts)


def _downloads(desk: Desk, clips: Any, chosen: Any) -> None:
    """Build a button for each format, and one for the contact sheet."""
    url = gr.Textbox(visible=False)
    problem = gr.HTML("", elem_id="download-problem")
    with gr.Row(elem_classes=["downloads"]):
        for name in (*OUTPUT_FORMATS, _SHEET):
            button = gr.Button(name.replace("_", " "), size="sm", min_width=0)
            button.click(
                _writing(desk, name), [clips, chosen], [url, problem], **QUIET
            ).then(None, url, None, js=_DOWNLOAD)


def _writing(desk: Desk, name: str) -> Any:
    def write(clips: Sequence[Clip], place: int | None) -> tuple[str, str]:
        if not clips:
            return "", ""
        try:
            return link(_written(desk, clips[place or 0].path, name)), ""
        except (EncodeError, AssetError) as error:
            return "", note(error.message)

    return write


def _written(desk: Desk, path: Path, name: str) -> Path:
    if name == _SHEET:
        return contact_sheet(path, desk.copies)
    return in_format(path, name, desk.copies)
