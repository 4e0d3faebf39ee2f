"""What the page does with a back end: jobs in a line, one seed after the other."""

import random
import threading
from collections.abc import Generator, Iterator, Mapping
from typing import Any

from ..errors import JobCancelled
from ..job.clip import SEED_MAX
from .backends import Backend, Event, Failed, Job, Waiting
from .line import Line, LineFull

MAX_CLIPS = 9
"""Clips of one click."""


class Studio:
    """Runs jobs on ``backend``; at most ``most_waiting`` wait for their turn."""

    def __init__(self, backend: Backend, most_waiting: int = 16) -> None:
        self.backend = backend
        self._line = Line(backend.at_once, most_waiting)
        self._running: dict[str, threading.Event] = {}

    def cancel(self, session: str) -> bool:
        """End what a session runs or waits for; return whether there was anything."""
        running = self._running.get(session)
        if running is not None:
            running.set()
        return running is not None

    def run(self, session: str, job: Job) -> Generator[Event]:
        """Yield what happens to a job of a session, from its place in the line on.

        A second job of the same session is refused while the first one runs.
        """
        cancelled = threading.Event()
        if self._running.setdefault(session, cancelled) is not cancelled:
            yield Failed({"code": "BUSY", "message": "your last clip is being made"})
            return
        try:
            with self._line.place() as ticket:
                yield from self._waited(ticket, cancelled)
                yield from self._made(job, cancelled)
        except LineFull as error:
            yield Failed(error.to_dict())
        finally:
            cancelled.set()  # a page that was closed frees the device
            self._running.pop(session, None)

    def _waited(self, ticket: object, cancelled: threading.Event) -> Iterator[Event]:
        shown = 0
        while (place := self._line.ahead(ticket)) and not cancelled.is_set():
            if place != shown:
                yield Waiting(place)
            shown = place
            self._line.wait(ticket, place)

    def _made(self, job: Job, cancelled: threading.Event) -> Iterator[Event]:
        if cancelled.is_set():
            yield Failed(JobCancelled("the job was cancelled").to_dict())
            return
        yield from self.backend.run(job, cancelled)


def several(job: Job, count: int) -> list[dict[str, Any]]:
    """Return ``count`` jobs that differ in their seeds alone.

    The first one has the job's own seed, or a drawn one; the others count on.
    """
    count = max(1, min(int(count), MAX_CLIPS))
    if count == 1:
        return [dict(job)]
    seed: Any = job.get("seed")
    first = seed if isinstance(seed, int) else random.SystemRandom().getrandbits(32)
    return [_with_seed(job, (first + i) % (SEED_MAX + 1)) for i in range(count)]


def _with_seed(job: Mapping[str, Any], seed: int) -> dict[str, Any]:
    return {**job, "seed": seed}
