"""Gradio, which is imported here alone, and what the page's parts share of it.

Where Gradio is not installed, importing this module raises ConfigurationError.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ConfigurationError

try:
    gr: Any = importlib.import_module("gradio")
except ImportError as error:
    raise ConfigurationError(
        "the page needs Gradio, which has an environment of its own (make app): "
        + str(error)
    ) from error

if TYPE_CHECKING:

    class Request:
        """A browser's request."""

        session_hash: str

    class EventData:
        """What came with an event."""

        _data: Any

else:
    EventData, Request = gr.EventData, gr.Request

HERE = Path(__file__).parent
STYLE = (HERE / "style.css").read_text(encoding="utf-8")
HEAD = f"<script>{(HERE / 'drop.js').read_text(encoding='utf-8')}</script>"
ACTS = (HERE / "acts.js").read_text(encoding="utf-8")
"""Sends what a person does in an HTML component, as the event ``input``."""
STAGE = (HERE / "stage.js").read_text(encoding="utf-8")
QUIET = {"show_progress": "hidden", "api_visibility": "private"}
"""Of events that are done at once."""


def act_of(event: EventData) -> dict[str, Any]:
    """Return what ``ACTS`` has sent with an event."""
    return dict(vars(event).get("_data") or {})
