"""How far a job is, told to whom it concerns: RunPod's clients, or a person at a terminal."""

import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

Report = Callable[[int, int], None]
"""Steps done, steps in all."""

MIN_INTERVAL = 1.0
"""Seconds between two updates: each is an HTTP request from a thread of its own."""


class ThrottledProgress:
    """Calls ``send`` with step, total and seconds left, at most once in ``MIN_INTERVAL``, never for the last step.

    An update sent when the job ends may arrive after the job's result, which then seems not to be finished.
    """

    def __init__(self, send: Callable[[dict[str, Any]], Any], clock: Callable[[], float] = time.monotonic) -> None:
        self._send, self._clock = send, clock
        self._start = self._last = clock()

    def __call__(self, step: int, total: int) -> None:
        now = self._clock()
        if step >= total or now - self._last < MIN_INTERVAL:
            return
        self._last = now
        left = (now - self._start) / step * (total - step)
        self._send({"step": step, "total": total, "seconds_left": round(left, 1)})


class BarProgress:
    """A bar on stderr, for CLIs and local runs."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def __call__(self, step: int, total: int) -> None:
        if self._bar is None:
            self._bar = tqdm(total=total, unit="step", desc="denoise")
        self._bar.update(step - self._bar.n)
        if step >= total:
            self._bar.close()
