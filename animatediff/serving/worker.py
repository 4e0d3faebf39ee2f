"""The RunPod side of a worker: an async handler around a device that does one thing at
a time.
"""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

from ..errors import AnimateDiffError
from .job import Answer, JobRunner
from .logs import log_event
from .progress import JobProgress


class Worker:
    """The handler that is given to ``runpod.serverless.start``.

    A job's frames are made on one thread, the device's; what comes before and after
    (downloads, encoding, upload) runs on others, beside the frames of the next job. A
    cancelled job is told so and, where it is on the device, waited for: the device is
    free when the next one starts. ``progress`` makes what is told of a job's steps; it
    is closed before the job is answered. ``warm`` runs on the device's thread at once,
    so that models load while the SDK fetches the first job.
    """

    def __init__(
        self,
        runner: JobRunner,
        progress: Callable[[Mapping[str, Any]], JobProgress],
        warm: Callable[[], None] | None = None,
        *,
        concurrency: int = 2,
    ) -> None:
        self._runner, self._progress = runner, progress
        self._device = ThreadPoolExecutor(1, thread_name_prefix="device")
        self._beside = ThreadPoolExecutor(2 * concurrency, thread_name_prefix="beside")
        if warm is not None:
            self._device.submit(_warm, warm)

    async def __call__(self, job: Mapping[str, Any]) -> Answer:
        """The job's output, or ``{"error": text}``, the text being JSON: the SDK's
        local API takes no object there.
        """
        cancelled = threading.Event()
        progress = self._progress(job)
        running = self._runner.start(job, progress, cancelled)
        try:
            for stage, pool in (
                (running.prepare, self._beside),
                (running.generate, self._device),
                (running.finish, self._beside),
            ):
                answer = await self._on(pool, stage, cancelled)
                if answer is not None:
                    break
            else:
                raise AssertionError("the last stage always answers")
            await self._on(self._beside, progress.close, cancelled)
        except asyncio.CancelledError:
            log_event("job_cancelled", job=running.id)
            raise
        if "error" in answer:
            answer = {**answer, "error": json.dumps(answer["error"])}
        return answer

    async def _on(
        self,
        pool: Executor,
        stage: Callable[[], Answer | None],
        cancelled: threading.Event,
    ) -> Answer | None:
        """``stage`` on a thread of ``pool``. When this job is cancelled, the device's
        thread is waited for.
        """
        work = pool.submit(stage)
        waiting = asyncio.wrap_future(work)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            cancelled.set()
            if (
                not work.cancel() and pool is self._device
            ):  # it runs: until the next step
                await asyncio.wait([waiting])
            raise


def _warm(warm: Callable[[], None]) -> None:
    start = time.perf_counter()
    try:
        warm()
    except AnimateDiffError as error:  # not the end: a job may name a model that is here; one that does not, fails
        log_event("nothing_loaded", level=logging.WARNING, error=error.to_dict())
    else:
        log_event("models_loaded", seconds=round(time.perf_counter() - start, 2))
