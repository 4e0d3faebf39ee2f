"""Back ends that make clips: one protocol, and the engine in this process."""

import queue
import threading
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname
from uuid import uuid4

from ..engine import Engine
from ..progress import Progress
from ..serving.job import JobRunner, Parse, Render
from ..serving.progress import Updates
from ..serving.storage import LocalStorage
from ..settings import Settings

Job = Mapping[str, Any]


@dataclass(frozen=True)
class Waiting:
    """The job waits; ``place`` 1 is the next. ``note`` says for what."""

    place: int = 0
    note: str = ""


@dataclass(frozen=True)
class Update:
    """The job runs; ``fields`` are those of a progress update of the API."""

    fields: Mapping[str, Any]


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
        self._runner = JobRunner(Engine(settings), storage, settings, parse, render)

    def run(self, job: Job, cancelled: threading.Event) -> Generator[Event]:
        """Make the clip on another thread, and yield what happens."""
        events: queue.Queue[Event] = queue.Queue()
        delivery = {"id": f"page-{uuid4().hex[:8]}", "input": dict(job)}
        updates = Updates()

        def report(progress: Progress) -> None:
            events.put(Update(updates.of(progress)))

        def work() -> None:
            events.put(_event_of(self._runner.run(delivery, report, cancelled)))

        threading.Thread(target=work, name="page-job", daemon=True).start()
        yield from until_last(events)


def until_last(events: "queue.Queue[Event]") -> Iterator[Event]:
    """Yield events up to the one that ends a job."""
    while True:
        event = events.get()
        yield event
        if isinstance(event, Finished | Failed):
            return


def _event_of(answer: Mapping[str, Any]) -> Event:
    error = answer.get("error")
    if error:
        return Failed(error)
    url: str = answer["url"]
    return Finished(Path(url2pathname(urlsplit(url).path)), answer)
