"""The RunPod side of a worker: an async handler around a GPU that does one thing at a time."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..errors import AnimateDiffError
from .progress import Report

log = logging.getLogger(__name__)

Run = Callable[[Mapping[str, Any], Report, threading.Event], dict[str, Any]]
"""JobRunner.run"""


class Worker:
    """The handler that is given to ``runpod.serverless.start``.

    Jobs run on a thread of their own, so that the SDK's event loop goes on listening for a stop. A cancelled job is
    told so and waited for: the GPU is free when the next one starts. ``warm`` is run on that thread at once, so that
    models load while the SDK fetches the first job.
    """

    def __init__(
        self, run: Run, progress: Callable[[Mapping[str, Any]], Report], warm: Callable[[], None] | None = None
    ) -> None:
        self._run, self._progress = run, progress
        self._gpu = ThreadPoolExecutor(1, thread_name_prefix="gpu")
        if warm is not None:
            self._gpu.submit(_warm, warm)

    async def __call__(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """The job's output, or ``{"error": text}``, the text being JSON: the SDK's local API takes no object there."""
        cancelled = threading.Event()
        work = asyncio.get_running_loop().run_in_executor(self._gpu, self._run, job, self._progress(job), cancelled)
        try:
            answer = await asyncio.shield(work)
        except asyncio.CancelledError:
            cancelled.set()
            await asyncio.wait([work])
            raise
        if "error" in answer:
            answer = {**answer, "error": json.dumps(answer["error"])}
        return answer


def _warm(warm: Callable[[], None]) -> None:
    start = time.perf_counter()
    try:
        warm()
    except AnimateDiffError as error:  # not the end: a job may name a model that is here; one that does not, fails
        log.warning("nothing loaded before the first job: %s", error)
    else:
        log.info("models loaded in %.1f s", time.perf_counter() - start)
