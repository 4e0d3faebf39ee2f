"""RunPod entry: settings -> worker -> runpod.serverless.start. Run it with test_input.json, or with --rp_serve_api."""

import logging
from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import runpod

from animatediff.engine import Engine
from animatediff.errors import AnimateDiffError
from animatediff.serving.job import JobRunner
from animatediff.serving.progress import BarProgress, Report, ThrottledProgress
from animatediff.serving.storage import make_storage
from animatediff.serving.worker import Worker
from animatediff.settings import Settings
from schemas import parse_job_input, render_job_output


@cache
def worker() -> Worker:
    """This process's worker, as the environment sets it up. Raises ConfigurationError."""
    settings = Settings.from_env()
    engine = Engine(settings)
    runner = JobRunner(engine, make_storage(settings), settings, parse_job_input, render_job_output)

    def progress(job: Mapping[str, Any]) -> Report:
        if settings.reports_progress:
            return ThrottledProgress(partial(runpod.serverless.progress_update, dict(job)))
        return BarProgress()

    return Worker(runner.run, progress, warm=engine.warm)


async def handler(job: Mapping[str, Any]) -> dict[str, Any]:
    """What RunPod calls with every job: ``{"id", "input"}`` -> the output, or ``{"error"}``."""
    return await worker()(job)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        worker()
    except AnimateDiffError as error:
        raise SystemExit(f"{error.code}: {error.message}") from None
    runpod.serverless.start({"handler": handler})
