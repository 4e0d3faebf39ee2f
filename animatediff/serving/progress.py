"""How far a job is, told to whom it concerns: RunPod's clients, or a person at a
terminal.
"""

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from typing import Any, Protocol

from tqdm import tqdm

Report = Callable[[int, int], None]
"""Steps done, steps in all."""

MIN_INTERVAL = 1.0
"""Seconds between two updates: each is an HTTP request."""
CLOSE_TIMEOUT = 5.0
"""Seconds that a job's answer waits for an update that is under way."""


class JobProgress(Protocol):
    """A report for one job, closed before the job is answered."""

    def __call__(self, step: int, total: int) -> None: ...

    def close(self) -> None:
        """Return when nothing more will be told."""
        ...


class ThrottledProgress:
    """Calls ``send`` with step, total and seconds left, on a thread of ``pool``.

    One at a time, at most one in ``MIN_INTERVAL``. None is sent after ``close``, and
    ``close`` waits for the one under way: an update that came after the job's result
    would make the job seem not to be finished.
    """

    def __init__(
        self,
        send: Callable[[dict[str, Any]], Any],
        pool: Executor,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send, self._pool, self._clock = send, pool, clock
        self._start = self._last = clock()
        self._under_way: Future[Any] | None = None
        self._closed = False

    def __call__(self, step: int, total: int) -> None:
        now = self._clock()
        busy = self._under_way is not None and not self._under_way.done()
        if self._closed or busy or step >= total or now - self._last < MIN_INTERVAL:
            return
        self._last = now
        left = (now - self._start) / step * (total - step)
        update = {"step": step, "total": total, "seconds_left": round(left, 1)}
        self._under_way = self._pool.submit(self._send, update)

    def close(self) -> None:
        self._closed = True
        if self._under_way is not None and not self._under_way.cancel():
            wait([self._under_way], timeout=CLOSE_TIMEOUT)


class BarProgress:
    """A bar on stderr, for CLIs and local runs."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def __call__(self, step: int, total: int) -> None:
        if self._bar is None:
            self._bar = tqdm(total=total, unit="step", desc="denoise")
        self._bar.update(step - self._bar.n)
        if step >= total:
            self.close()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
