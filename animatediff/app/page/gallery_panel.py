"""The gallery of all clips, and the place where a clip is dropped."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..desk import Desk
from ..views import cards
from .toolkit import ACTS, QUIET, gr

PAGE = 24
"""Clips that are shown first, and more by each click."""


@dataclass(frozen=True, eq=False)
class GalleryPanel:
    """The components of the gallery that others use."""

    view: Any
    words: Any
    most: Any
    refresh: Callable[[str, int], str]
    drop: Any


def gallery_panel(desk: Desk) -> GalleryPanel:
    """Build the gallery of ``desk``."""
    with gr.Row(elem_classes=["gallery-head"]):
        words = gr.Textbox(
            label="Search the gallery",
            placeholder="words of a prompt",
            elem_id="search",
        )
        drop = gr.File(
            label="Drop a clip here to go on from its settings",
            file_count="single",
            elem_id="drop",
            height=110,
        )
    view = gr.HTML("", js_on_load=ACTS, apply_default_css=False, elem_id="gallery")
    most = gr.State(PAGE)
    more = gr.Button("Show more", size="sm", elem_id="more")

    def refresh(searched: str, count: int) -> str:
        return cards(desk.gallery(searched), count)

    def add(searched: str, count: int) -> tuple[int, str]:
        return count + PAGE, refresh(searched, count + PAGE)

    words.change(refresh, [words, most], view, **QUIET)
    more.click(add, [words, most], [most, view], **QUIET)
    return GalleryPanel(view, words, most, refresh, drop)
