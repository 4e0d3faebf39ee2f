"""The button: it checks the form, makes the clips, and shows what became of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..desk import Desk, Tile, messages, words_of
from ..form import messages_of
from ..views import stage, summary
from .form_panel import FormPanel
from .result_panel import ResultPanel
from .toolkit import QUIET, Request, gr

Job = Mapping[str, Any]
_BUTTONS = 2


@dataclass(frozen=True, eq=False)
class Making:
    """The steps of a click. Each returns changes of the page's components."""

    desk: Desk
    form: FormPanel
    result: ResultPanel

    def wire(self) -> Any:
        """Wire the buttons; return the event after which all is over."""
        form, fields = self.form, self.form.fields
        job, failure = gr.State(None), gr.State(None)
        marks = [form.problems, *fields.outputs]
        checked = form.make.click(self.check, fields.inputs, [job, *marks], **QUIET)
        outputs = [form.make, form.cancel, *self.result.outputs]
        made = checked.then(
            self.make,
            [job, form.count],
            [self.result.stage, failure, *outputs],
            concurrency_limit=None,
            **QUIET,
        )
        form.cancel.click(self.cancel, None, None, queue=False, **QUIET)
        return made.then(self.explain, [job, failure], marks, **QUIET)

    def check(self, *values: Any) -> list[Any]:
        """Return the job, or None with the messages at its fields."""
        fields = self.form.fields
        asked = fields.job(values)
        error = self.desk.problem(asked)
        if error is None:
            return [asked, "", *fields.marked(asked, {})]
        rows = messages_of(error)
        return [None, summary(error.message, rows), *fields.marked(asked, rows)]

    def make(self, asked: Job | None, count: float, request: Request) -> Iterator[Any]:
        """Yield the stage as it changes; at the end also the clips, or the failure."""
        rest = _BUTTONS + len(self.result.outputs)
        if asked is None:
            yield [gr.skip()] * (2 + rest)
            return
        tiles = (Tile(asked),)
        yield [stage(tiles), None, *_buttons(True), *self.result.shown(())]
        for tiles in self.desk.make(request.session_hash, asked, int(count or 1)):
            yield [stage(tiles), gr.skip(), *[gr.skip()] * rest]
        clips = [tile.clip for tile in tiles if tile.clip]
        failed = next((tile.error for tile in tiles if tile.error), None)
        yield [stage(tiles), failed, *_buttons(False), *self.result.shown(clips)]

    def explain(self, asked: Job | None, error: Job | None) -> list[Any]:
        """Return the messages of a failed job at its fields."""
        fields = self.form.fields
        rows = messages(error) if error else {}
        if asked is None or error is None or not rows:
            return [gr.skip()] * (1 + len(fields.outputs))
        return [summary(words_of(error), rows), *fields.marked(asked, rows)]

    def cancel(self, request: Request) -> None:
        """End what this page runs."""
        self.desk.studio.cancel(request.session_hash)


def _buttons(is_busy: bool) -> list[Any]:
    """Return changes of the buttons that make and cancel."""
    return [gr.update(interactive=not is_busy), gr.update(interactive=is_busy)]
