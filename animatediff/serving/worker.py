"""A worker's async handler, around a device that runs one job at a time."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

from ..errors import AnimateDiffError
from ..settings import Settings
from .job import Answer, JobRunner, RunningJob
from .logs import log_event
from .progress import JobProgress


class Worker:
    """The handler that RunPod's SDK calls with every job.

    One thread, the device's, generates frames. Other threads run what comes before and
    after (downloads, encoding, upload) while the next job is on the device. A cancelled
    job is asked to stop; if it is on the device, the worker waits for it, so that the
    device is free when the next job starts.

    ``progress`` makes the progress of a job, which is closed before the job is
    answered. ``warm`` runs on the device's thread at once, so that models load while
    the SDK fetches the first job.
    """

    def __init__(
        self,
        runner: JobRunner,
        progress: Callable[[Mapping[str, Any]], JobProgress],
        warm: Callable[[], None] | None = None,
        *,
        concurrency: int = 2,
    ) -> None:
        self._runner = runner
        self._progress = progress
        self._device = ThreadPoolExecutor(1, thread_name_prefix="device")
        self._others = ThreadPoolExecutor(2 * concurrency, thread_name_prefix="others")
        if warm is not None:
            self._device.submit(_warm, warm, runner)

    @property
    def settings(self) -> Settings:
        """The settings of this worker's jobs."""
        return self._runner.settings

    async def __call__(self, job: Mapping[str, Any]) -> Answer:
        """Return the job's output, or ``{"error": text}`` with JSON as the text.

        It is text because the SDK's local API accepts no object there.
        """
        cancelled = threading.Event()
        progress = self._progress(job)
        running = self._runner.start(job, progress, cancelled)
        try:
            answer = await self._stages(running, cancelled)
            await self._on(self._others, progress.close, cancelled)
        except asyncio.CancelledError:
            log_event("job_cancelled", job=running.id)
            raise
        if "error" in answer:
            return {**answer, "error": json.dumps(answer["error"])}
        return answer

    async def _stages(self, running: RunningJob, cancelled: threading.Event) -> Answer:
        answer = await self._on(self._others, running.prepare, cancelled)
        if answer is None:
            answer = await self._on(self._device, running.generate, cancelled)
        if answer is None:
            answer = await self._on(self._others, running.finish, cancelled)
        if answer is None:
            raise AssertionError("the last stage always answers")
        return answer

    async def _on(
        self,
        pool: Executor,
        stage: Callable[[], Answer | None],
        cancelled: threading.Event,
    ) -> Answer | None:
        """Run ``stage`` on a thread of ``pool``.

        If the job is cancelled meanwhile, wait for the device's thread, up to the next
        denoising step.
        """
        work = pool.submit(stage)
        waiting = asyncio.wrap_future(work)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            cancelled.set()
            is_running = not work.cancel()
            if is_running and pool is self._device:
                await asyncio.wait([waiting])
            raise


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
