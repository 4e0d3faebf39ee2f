"""RunPod entry. Run it with test_input.json, or with --rp_serve_api."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import runpod  # pyright: ignore[reportMissingTypeStubs]

from animatediff.serving.logs import log_event
from animatediff.serving.runpod_worker import build_worker, start_config
from animatediff.serving.worker import Worker
from animatediff.settings import Settings
from schemas import parse_job_input, render_job_output


@cache
def worker() -> Worker:
    """The worker of this process. Raises ConfigurationError."""
    return build_worker(Settings.from_env(), parse_job_input, render_job_output)


async def handler(job: Mapping[str, Any]) -> dict[str, Any]:
    """Run a job ``{"id", "input"}``: its output, or ``{"error": text}``."""
    return await worker()(job)


if __name__ == "__main__":
    runpod.serverless.start(start_config(worker, handler))
    log_event("shutdown")
