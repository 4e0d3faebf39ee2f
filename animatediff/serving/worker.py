"""A worker's async handler, around a device that runs one job at a time."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from ..errors import AnimateDiffError, DeviceFailed
from ..settings import Settings
from ..threads import Threads
from .job import Answer, JobRunner, RunningJob
from .logs import log_event
from .progress import JobProgress
from .shutdown import Shutdown

LOOK_SECONDS = 0.25
"""Seconds between two looks at the deadline of a stage that runs."""
LATE_SECONDS = 2.0
"""Seconds that a stage has to end by itself once its job must."""
STUCK_SECONDS = 60.0
"""Seconds after which a stage that does not leave the device counts as stuck."""
Work = Future[Answer | None]


class Worker:
    """The handler that RunPod's SDK calls with every job.

    One thread, the device's, generates frames. Other threads run what comes before and
    after (downloads, encoding, upload) while the next job is on the device.

    A job whose deadline is over is asked to stop. A stage that does not, because it
    waits for a disk or computes without a break, is left behind: the job is answered,
    and another thread takes the place of its own. Only the device cannot be given to
    others before the stage leaves it. If that takes too long, the worker has to be
    replaced.

    ``progress`` makes the progress of a job, which is closed before the job is
    answered. ``warm`` runs on the device's thread at once, so that models load while
    the SDK fetches the first job. ``shutdown`` is what signals begin.
    """

    def __init__(
        self,
        runner: JobRunner,
        progress: Callable[[Mapping[str, Any]], JobProgress],
        warm: Callable[[], None] | None = None,
        *,
        concurrency: int = 2,
        shutdown: Shutdown | None = None,
    ) -> None:
        self._runner = runner
        self._progress = progress
        self._device = Threads(1, "device")
        self._others = Threads(2 * concurrency, "others")
        self._shutdown = shutdown
        self._watches: set[asyncio.Task[None]] = set()
        if warm is not None:
            self._device.submit(lambda: _warm(warm, runner))

    @property
    def settings(self) -> Settings:
        """The settings of this worker's jobs."""
        return self._runner.settings

    @property
    def has_to_be_replaced(self) -> bool:
        """Whether a job has failed in a way that the next ones will, too."""
        return self._runner.status.has_to_be_replaced

    def heed_signals(self) -> None:
        """End the jobs in time when this process must end.

        To be called when the SDK, or its local API, has set its own handlers.
        """
        if self._shutdown is not None:
            self._shutdown.install()

    async def __call__(self, job: Mapping[str, Any]) -> Answer:
        """Return the job's output, or ``{"error": text}`` with JSON as the text.

        It is text because the SDK's local API accepts no object there.
        """
        self.heed_signals()
        progress = self._progress(job)
        running = self._runner.start(job, progress, threading.Event())
        try:
            answer = await self._stages(running)
            await asyncio.wrap_future(self._others.submit(progress.close))
        except asyncio.CancelledError:
            log_event("job_cancelled", job=running.id)
            raise
        if "error" in answer:
            return {**answer, "error": json.dumps(answer["error"])}
        return answer

    async def _stages(self, running: RunningJob) -> Answer:
        for threads, stage in (
            (self._others, running.prepare),
            (self._device, running.generate),
            (self._others, running.finish),
        ):
            answer = await self._on(threads, stage, running)
            if answer is not None:
                return answer
        raise AssertionError("the last stage always answers")

    async def _on(
        self,
        threads: Threads,
        stage: Callable[[], Answer | None],
        running: RunningJob,
    ) -> Answer | None:
        """Run ``stage`` on one of ``threads``.

        If the job is cancelled meanwhile, wait for the device, up to its next step.
        """
        work = threads.submit(stage)
        waiting = asyncio.wrap_future(work)
        try:
            await _until_over(waiting, running)
            if not waiting.done():
                await self._leave(threads, work, waiting, LATE_SECONDS)
            ended = waiting.done() and not waiting.cancelled()
            return waiting.result() if ended else running.late_answer()
        except asyncio.CancelledError:
            running.deadline.cancel()
            seconds = STUCK_SECONDS if threads is self._device else 0.0
            await self._leave(threads, work, waiting, seconds)
            raise

    async def _leave(
        self,
        threads: Threads,
        work: Work,
        waiting: "asyncio.Future[Answer | None]",
        seconds: float,
    ) -> None:
        """Wait ``seconds`` for a stage that must end, then go on without it."""
        if work.cancel():  # it had not begun
            return
        await asyncio.wait([waiting], timeout=seconds)
        if waiting.done():
            return
        if threads is self._device:
            watch = asyncio.create_task(self._watch_device(work, waiting))
            self._watches.add(watch)
            watch.add_done_callback(self._watches.discard)
        else:
            threads.abandon(work)

    async def _watch_device(
        self, work: Work, waiting: "asyncio.Future[Answer | None]"
    ) -> None:
        """Give up the worker if a stage stays on the device.

        Jobs that wait for the device then go on, to be refused.
        """
        await asyncio.wait([waiting], timeout=STUCK_SECONDS)
        if not waiting.done():
            error = DeviceFailed("a job does not leave the device")
            self._runner.status.end_with(error)
            self._device.abandon(work)


async def _until_over(
    waiting: "asyncio.Future[Answer | None]", running: RunningJob
) -> None:
    """Return when the stage has ended, or when its job must end."""
    while not waiting.done() and running.deadline.reason() is None:
        await asyncio.wait([waiting], timeout=LOOK_SECONDS)


def _warm(warm: Callable[[], None], runner: JobRunner) -> None:
    """Load the models. A failure is only logged: jobs may name a model that is here.

    After a fatal one, the worker takes no job.
    """
    start = time.perf_counter()
    try:
        warm()
    except AnimateDiffError as error:
        log_event("nothing_loaded", level=logging.WARNING, error=error.to_dict())
        if error.fatal:
            runner.status.end_with(error)
    else:
        log_event("models_loaded", seconds=round(time.perf_counter() - start, 2))
