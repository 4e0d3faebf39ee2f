"""Back ends that make clips: one protocol, and the engine in this process."""

import logging
import queue
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname
from uuid import uuid4

from ..engine import Engine
from ..errors import AnimateDiffError
from ..progress import Progress
from ..serving.job import JobRunner, Parse, Render
from ..serving.progress import Updates
from ..serving.storage import LocalStorage
from ..settings import Settings
from .moving import Strip, strip_of

log = logging.getLogger(__name__)
Job = Mapping[str, Any]


@dataclass(frozen=True)
class Waiting:
    """The job waits; ``place`` 1 is the next. ``note`` says for what."""

    place: int = 0
    note: str = ""


@dataclass(frozen=True)
class Update:
    """The job runs; ``fields`` are those of a progress update of the API.

    ``strip`` is a new preview, if there is one.
    """

    fields: Mapping[str, Any]
    strip: Strip | None = None


@dataclass(frozen=True)
class Finished:
    """The clip is in ``path``; ``output`` is the job's output."""

    path: Path
    output: Mapping[str, Any]


@dataclass(frozen=True)
class Failed:
    """The job has ended without a clip; ``error`` has code, message and details."""

    error: Mapping[str, Any] = field(default_factory=dict[str, Any])


Event = Waiting | Update | Finished | Failed


class Backend(Protocol):
    """Makes clips."""

    title: str
    """What the page says of it."""
    at_once: int
    """Jobs that may run side by side."""

    def check(self, job: Job) -> None:
        """Raise the error of a job that will be refused before anything runs."""
        ...

    def run(self, job: Job, cancelled: threading.Event) -> Generator[Event]:
        """Yield what happens to ``job``; the last event is Finished or Failed.

        The job ends soon after ``cancelled`` is set.
        """
        ...


class EngineBackend:
    """The engine in this process. Its files go to the settings' output folder."""

    at_once = 1

    def __init__(self, settings: Settings, parse: Parse, render: Render) -> None:
        self.title = "the engine in this process"
        storage = LocalStorage(settings.output_dir)
        self._engine = Engine(settings)
        self._runner = JobRunner(self._engine, storage, settings, parse, render)

    def warm(self) -> None:
        """Begin to load the default model on another thread.

        An error is logged: the first job will meet it too, and its page shows it.
        """
        threading.Thread(target=self._warm, name="page-warm", daemon=True).start()

    def _warm(self) -> None:
        try:
            self._engine.warm()
        except AnimateDiffError as error:
            log.warning("the default model is not loaded: %s", error.message)

    def check(self, job: Job) -> None:
        """Decide the job's fields. Raises InvalidRequest and AssetError."""
        self._engine.resolve(self._runner.parse(dict(job)))

    def run(self, job: Job, cancelled: threading.Event) -> Generator[Event]:
        """Make the clip on another thread, and yield what happens."""
        events: queue.Queue[Progress | Event] = queue.Queue()
        delivery = {"id": f"page-{uuid4().hex[:8]}", "input": dict(job)}

        def work() -> None:
            events.put(_event_of(self._runner.run(delivery, events.put, cancelled)))

        threading.Thread(target=work, name="page-job", daemon=True).start()
        yield from _events_of(events)


def _events_of(events: "queue.Queue[Progress | Event]") -> Iterator[Event]:
    """Yield reports as updates, and the event that ends the job.

    Of reports that came meanwhile, only the last one is kept, with the last preview.
    """
    updates = Updates()
    while True:
        waiting = [events.get(), *_all(events)]
        reports = [each for each in waiting if isinstance(each, Progress)]
        previews = [each.preview for each in reports if each.preview is not None]
        fields = [updates.of(each) for each in reports]
        if fields:
            yield Update(fields[-1], strip_of(previews[-1]) if previews else None)
        if not isinstance(waiting[-1], Progress):
            yield waiting[-1]
            return


def _all(events: "queue.Queue[Progress | Event]") -> Iterator[Progress | Event]:
    """Take what is in the queue now."""
    with suppress(queue.Empty):
        while True:
            yield events.get_nowait()


def _event_of(answer: Mapping[str, Any]) -> Event:
    error = answer.get("error")
    if error:
        return Failed(error)
    url: str = answer["url"]
    return Finished(Path(url2pathname(urlsplit(url).path)), answer)
