"""What a job waits for beside its own work, in a real worker on a local queue."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from lab.bench.figures import Row
from lab.bench.sizes import Run
from lab.queue.local_queue import LocalQueue
from lab.queue.workers import WorkerProcess

REASON = "no counterpart: diffusers has no worker"
JOB = {
    "prompt": "a red circle, moving up",
    "num_frames": 4,
    "num_inference_steps": 2,
    "format": "gif",
}
TIMEOUT = 300.0
"""Seconds."""


def measure(run: Run) -> Iterator[Row]:
    """Yield the time from submitting a job of the embedded family to its answer.

    The time that the worker names as the job's own is taken off. The worker runs on
    the CPU.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalQueue() as queue,
        WorkerProcess(queue, Path(folder), "w1") as worker,
    ):
        worker.ready()
        _seconds(queue)  # loads the models
        values = [_seconds(queue) for _ in range(run.repeat)]
    yield Row("queue, a job beyond its own work", "s", values, reason=REASON)


def _seconds(queue: LocalQueue) -> float:
    (job,) = queue.wait([queue.submit(dict(JOB))], TIMEOUT)
    if job.ended is None or job.error:
        raise RuntimeError(f"the job did not end well: {job.error}")
    return job.ended - job.submitted - float(job.output["timings"]["total"])
