"""Progress of a job, for RunPod's clients or for a person at a terminal."""

import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from typing import Any, Protocol

from tqdm import tqdm

from ..progress import Phase, Preview, Progress
from ..video.preview import preview_url

MIN_INTERVAL = 1.0
"""Seconds between two updates: each is an HTTP request."""
CLOSE_TIMEOUT = 5.0
"""Seconds that a job's answer waits for an update in flight."""
UNITS: dict[Phase, str] = {"download": "B", "denoise": "step", "decode": "frame"}


class Pool(Protocol):
    """Threads that work can be given to."""

    def submit(self, work: Callable[[], Any], /) -> Future[Any]:
        """Return the coming result of ``work``."""
        ...


class JobProgress(Protocol):
    """Receives the reports of one job. It is closed before the job is answered."""

    def __call__(self, progress: Progress, /) -> None:
        """Receive a report."""
        ...

    def close(self) -> None:
        """Return once nothing more will be sent."""
        ...


def _is_finished(progress: Progress) -> bool:
    """Whether the phase of ``progress`` has no step left."""
    return progress.total > 0 and progress.step >= progress.total


def _steps_done(progress: Progress) -> int:
    return progress.total if _is_finished(progress) else progress.step


class _Pace:
    """Time per denoising step, measured from the first report of denoising."""

    def __init__(self) -> None:
        self._first_step = self._first_time = 0.0
        self._started = False

    def seconds_left(self, progress: Progress, now: float) -> float | None:
        """Estimate of the remaining seconds of denoising; None if there is none yet."""
        if progress.phase != "denoise":
            return None
        steps = progress.step - self._first_step
        if not self._started or steps <= 0:
            self._started = True
            self._first_step, self._first_time = progress.step, now
            return None
        seconds_per_step = (now - self._first_time) / steps
        return seconds_per_step * max(progress.total - progress.step, 0)


def update_of(progress: Progress, seconds_left: float | None) -> dict[str, Any]:
    """The output of a job in progress, as clients receive it.

    ``{"phase", "step", "total"}``; while denoising also ``"seconds_left"``. A total of
    0 is not known. Steps are bytes in the phase "download", frames in "decode".
    """
    update: dict[str, Any] = {
        "phase": progress.phase,
        "step": _steps_done(progress),
        "total": progress.total,
    }
    if seconds_left is not None:
        update["seconds_left"] = round(seconds_left, 1)
    return update


class ThrottledProgress:
    """Calls ``send`` with an update on a thread of ``pool``, at most once a second.

    An update has the latest preview, if there is one, because a client may have missed
    the update before it.

    Only one update is in flight. The end of a phase is not sent: the next phase or the
    job's output follows. None is sent after ``close``, and ``close`` waits for the one
    in flight: an update that arrived after the job's output would make the job look
    unfinished.
    """

    def __init__(
        self,
        send: Callable[[dict[str, Any]], Any],
        pool: Pool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._pool = pool
        self._clock = clock
        self._last = clock()
        self._pace = _Pace()
        self._in_flight: Future[Any] | None = None
        self._closed = False
        self._preview: Preview | None = None
        self._shown: tuple[Preview, str | None] | None = None

    def __call__(self, progress: Progress, /) -> None:
        """Send ``progress`` unless it comes too early."""
        now = self._clock()
        self._preview = progress.preview or self._preview
        seconds_left = self._pace.seconds_left(progress, now)
        if _is_finished(progress) or not self._is_free(now):
            return
        self._last = now
        update = update_of(progress, seconds_left)
        self._in_flight = self._pool.submit(
            partial(self._send_with, update, self._preview)
        )

    def _send_with(self, update: dict[str, Any], preview: Preview | None) -> None:
        """Send ``update`` with ``preview``, which is encoded once."""
        if preview is not None and (self._shown is None or self._shown[0] != preview):
            frames = preview.frames.numpy()
            self._shown = preview, preview_url(frames, preview.fps, preview.max_bytes)
        url = self._shown[1] if self._shown else None
        self._send({**update, "preview": url} if url else update)

    def _is_free(self, now: float) -> bool:
        if self._closed or now - self._last < MIN_INTERVAL:
            return False
        return self._in_flight is None or self._in_flight.done()

    def close(self) -> None:
        """Send nothing more, and wait for the update in flight."""
        self._closed = True
        if self._in_flight is not None and not self._in_flight.cancel():
            wait([self._in_flight], timeout=CLOSE_TIMEOUT)


class BarProgress:
    """One bar on stderr for each phase, for command lines and local runs."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._phase: tuple[Phase, int] | None = None

    def __call__(self, progress: Progress, /) -> None:
        """Move the bar to ``progress``, or begin the bar of the next phase."""
        step = _steps_done(progress)
        phase: tuple[Phase, int] = (progress.phase, progress.total)
        if self._bar is None or phase != self._phase or step < self._bar.n:
            self.close()
            self._bar, self._phase = _bar(progress), phase
        self._bar.update(step - self._bar.n)
        if _is_finished(progress):
            self.close()

    def close(self) -> None:
        """End the current bar."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None


def _bar(progress: Progress) -> Any:
    is_download = progress.phase == "download"
    return tqdm(
        total=progress.total or None,
        desc=progress.phase,
        unit=UNITS.get(progress.phase, "step"),
        unit_scale=is_download,
        unit_divisor=1024 if is_download else 1000,
        file=sys.stderr,
    )


class Updates:
    """Turns the reports of one job, as they come, into updates; see ``update_of``."""

    def __init__(self) -> None:
        self._pace = _Pace()

    def of(self, progress: Progress) -> dict[str, Any]:
        """Return the update of a report that has just come."""
        left = self._pace.seconds_left(progress, time.monotonic())
        return update_of(progress, left)
