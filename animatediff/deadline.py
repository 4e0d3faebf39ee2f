"""When a job has to end: at its time limit, when it is cancelled, or with its worker.

One ``Deadline`` goes with a job through all its stages. Whatever takes long asks
``check``, or waits with ``wait_for``, ``result`` and ``holding``, which ask it.

The limit is for the job's own work: only time inside ``phase`` counts, and none inside
``waiting``. So a job that waits for another one does not use up its limit.
"""

import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from .errors import AnimateDiffError, JobCancelled, JobTimedOut, WorkerStopped

POLL = 0.1
"""Seconds between two looks at a deadline while a job waits."""
_WAITING = ""
_RETRYABLE_PHASES = ("download", "store")
"""Phases whose speed another machine decides, so it may be better later."""
T = TypeVar("T")


class Deadline:
    """The end of one job.

    ``limit`` is in seconds of own work, None for no limit. The job also ends when
    ``cancelled`` or ``stopped`` is set; the latter is the worker's, for all its jobs.
    """

    def __init__(
        self,
        limit: float | None = None,
        *,
        cancelled: threading.Event | None = None,
        stopped: threading.Event | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit = limit
        self._cancelled = cancelled or threading.Event()
        self._stopped = stopped or threading.Event()
        self._clock = clock
        self._lock = threading.Lock()
        self._phases = [_WAITING]
        self._since = clock()
        self._seconds: dict[str, float] = {}

    def cancel(self) -> None:
        """Let the next check raise JobCancelled."""
        self._cancelled.set()

    def check(self) -> None:
        """Raise JobCancelled, WorkerStopped or JobTimedOut if the job must end."""
        error = self.reason()
        if error is not None:
            raise error

    def reason(self) -> AnimateDiffError | None:
        """Return why the job must end, or None if it may go on."""
        if self._cancelled.is_set():
            return JobCancelled("the job was cancelled")
        if self._stopped.is_set():
            return WorkerStopped("the worker is being stopped; send the job again")
        remaining = self.remaining()
        return None if remaining is None or remaining > 0 else self._timed_out()

    def remaining(self) -> float | None:
        """Return the seconds of own work that are left, or None without a limit."""
        return None if self.limit is None else self.limit - self.used()

    def used(self) -> float:
        """Return the seconds of own work so far."""
        return sum(self.seconds().values())

    def seconds(self) -> dict[str, float]:
        """Return the seconds of own work so far, by phase.

        A phase inside another one counts for itself alone.
        """
        with self._lock:
            self._count()
            return dict(self._seconds)

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Count the time inside as own work, spent in the phase ``name``."""
        with self._lock:
            self._count()
            self._phases.append(name)
        try:
            yield
        finally:
            with self._lock:
                self._count()
                self._phases.pop()

    def waiting(self) -> AbstractContextManager[None]:
        """Count no time inside: the job waits for other jobs."""
        return self.phase(_WAITING)

    def wait_for(self, is_done: Callable[[float], object]) -> None:
        """Return when ``is_done`` is true; raise as ``check`` if the job ends first.

        ``is_done`` is called over and over, with the seconds that it may wait.
        """
        self.check()
        while not is_done(self._pause()):
            self.check()

    def result(self, future: Future[T]) -> T:
        """Return the result of ``future``, which goes on if the job ends first."""
        self.wait_for(lambda seconds: wait([future], timeout=seconds).done)
        return future.result()

    @contextmanager
    def holding(self, lock: threading.Lock) -> Generator[None]:
        """Hold ``lock`` inside. Waiting for it is no work."""
        with self.waiting():
            self.wait_for(lambda seconds: lock.acquire(timeout=seconds))
        try:
            yield
        finally:
            lock.release()

    def _pause(self) -> float:
        remaining = self.remaining()
        return POLL if remaining is None else min(POLL, max(remaining, 0.001))

    def _count(self) -> None:
        now, name = self._clock(), self._phases[-1]
        if name != _WAITING:
            self._seconds[name] = self._seconds.get(name, 0.0) + now - self._since
        self._since = now

    def _timed_out(self) -> JobTimedOut:
        seconds = self.seconds()
        phase = max(seconds, key=seconds.__getitem__)
        return JobTimedOut(
            f"the job's own work took longer than the allowed {self.limit:g} s;"
            f" {seconds[phase]:.1f} s of it were in the phase {phase}",
            retryable=phase in _RETRYABLE_PHASES,
            limit=self.limit,
            phase=phase,
        )


@dataclass
class Stopwatch:
    """Seconds by phase, on the wall clock. ``deadline`` learns the phases too."""

    deadline: Deadline
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Measure the time until the block ends."""
        start = time.perf_counter()
        try:
            with self.deadline.phase(name):
                yield
        finally:
            self.seconds[name] = round(time.perf_counter() - start, 3)
