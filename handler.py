"""RunPod entry: settings -> worker -> runpod.serverless.start. Run it with test_input.json, or with --rp_serve_api."""

import logging
from collections.abc import Mapping
from functools import partial
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


def make_worker(settings: Settings) -> Worker:
    """The handler of an installation. Raises ConfigurationError; loads no model yet."""
    engine = Engine(settings)
    runner = JobRunner(engine, make_storage(settings), settings, parse_job_input, render_job_output)

    def progress(job: Mapping[str, Any]) -> Report:
        if settings.reports_progress:
            return ThrottledProgress(partial(runpod.serverless.progress_update, job))
        return BarProgress()

    return Worker(runner.run, progress)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        worker = make_worker(Settings.from_env())
    except AnimateDiffError as error:
        raise SystemExit(f"{error.code}: {error.message}") from None
    runpod.serverless.start({"handler": worker})
