"""A line of jobs with places: some run, the others wait, and nobody else may join."""

import threading
from collections.abc import Generator
from contextlib import contextmanager

from ..errors import AnimateDiffError

POLL_SECONDS = 0.2


class LineFull(AnimateDiffError):
    """So many jobs wait that no other may join."""

    code = "LINE_FULL"
    retryable = True


class Line:
    """``at_once`` jobs run; at most ``most`` more wait."""

    def __init__(self, at_once: int, most: int) -> None:
        self._at_once, self._most = at_once, most
        self._tickets: list[object] = []
        self._changed = threading.Condition()

    @contextmanager
    def place(self) -> Generator[object]:
        """Hold a place; yields its ticket. Raises LineFull."""
        ticket = object()
        with self._changed:
            if len(self._tickets) >= self._at_once + self._most:
                raise LineFull(f"{self._most} jobs wait already; try again later")
            self._tickets.append(ticket)
        try:
            yield ticket
        finally:
            with self._changed:
                self._tickets.remove(ticket)
                self._changed.notify_all()

    def ahead(self, ticket: object) -> int:
        """Return how many places ``ticket`` is from running; 0: it may run."""
        with self._changed:
            return self._ahead(ticket)

    def wait(self, ticket: object, place: int) -> None:
        """Wait a moment, or until ``ticket`` has another place than ``place``."""
        with self._changed:
            self._changed.wait_for(lambda: self._ahead(ticket) != place, POLL_SECONDS)

    def _ahead(self, ticket: object) -> int:
        return max(0, self._tickets.index(ticket) + 1 - self._at_once)
