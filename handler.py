"""RunPod entry: settings -> worker -> runpod.serverless.start. Run it with
test_input.json, or with --rp_serve_api.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import runpod
from runpod.serverless.modules import rp_progress

from animatediff.engine import Engine
from animatediff.errors import AnimateDiffError
from animatediff.serving.fitness import fitness_checks
from animatediff.serving.job import JobRunner
from animatediff.serving.logs import configure_logs, log_event
from animatediff.serving.progress import BarProgress, JobProgress, ThrottledProgress
from animatediff.serving.storage import make_storage
from animatediff.serving.worker import Worker
from animatediff.settings import Settings
from schemas import parse_job_input, render_job_output


@cache
def settings() -> Settings:
    """As the environment says. Raises ConfigurationError."""
    return Settings.from_env()


@cache
def worker() -> Worker:
    """This process's worker. Raises ConfigurationError."""
    engine = Engine(settings())
    runner = JobRunner(
        engine, make_storage(settings()), settings(), parse_job_input, render_job_output
    )
    senders = ThreadPoolExecutor(settings().concurrency, thread_name_prefix="progress")

    def progress(job: Mapping[str, Any]) -> JobProgress:
        if not settings().on_platform:
            return BarProgress()
        # what the SDK's progress_update does on a thread that nobody can wait for
        return ThrottledProgress(
            partial(rp_progress._thread_target, dict(job)), senders
        )

    return Worker(
        runner, progress, warm=engine.warm, concurrency=settings().concurrency
    )


async def handler(job: Mapping[str, Any]) -> dict[str, Any]:
    """What RunPod calls with every job: ``{"id", "input"}`` -> the output, or
    ``{"error"}``.
    """
    return await worker()(job)


if __name__ == "__main__":
    configure_logs()
    try:
        worker()
    except AnimateDiffError as error:
        raise SystemExit(f"{error.code}: {error.message}") from None
    for check in fitness_checks(settings()):
        runpod.serverless.register_fitness_check(check)
    log_event("worker_ready", concurrency=settings().concurrency)
    runpod.serverless.start(
        {
            "handler": handler,
            "concurrency_modifier": lambda _current: settings().concurrency,
        }
    )
    log_event("shutdown")
