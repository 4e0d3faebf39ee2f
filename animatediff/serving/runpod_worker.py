"""The worker under RunPod's SDK: what handler.py and ``animatediff serve`` start."""

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import runpod
from runpod.http_client import AsyncClientSession
from runpod.serverless.modules.rp_http import send_result
from runpod.serverless.modules.rp_logger import RunPodLogger

from ..engine import Engine
from ..errors import AnimateDiffError
from ..settings import Settings, unknown_variables
from .fitness import fitness_checks
from .job import Answer, JobRunner, Parse, Render
from .logs import configure_logs, log_event
from .progress import BarProgress, JobProgress, ThrottledProgress
from .storage import make_storage
from .worker import Worker

Job = Mapping[str, Any]
Handler = Callable[[Job], Coroutine[Any, Any, Answer]]


def build_worker(settings: Settings, parse: Parse, render: Render) -> Worker:
    """The worker of this process, with its engine and storage.

    Models begin to load at once. Raises ConfigurationError.
    """
    engine = Engine(settings)
    storage = make_storage(settings)
    return Worker(
        JobRunner(engine, storage, settings, parse, render),
        _progress_of(settings),
        warm=engine.warm,
        concurrency=settings.concurrency,
    )


def _progress_of(settings: Settings) -> Callable[[Job], JobProgress]:
    """Make the progress of a job: for RunPod's clients, or for a terminal."""
    if not settings.on_platform:
        return lambda _job: BarProgress()
    senders = ThreadPoolExecutor(settings.concurrency, thread_name_prefix="progress")
    return lambda job: ThrottledProgress(partial(send_progress, job), senders)


def send_progress(job: Job, update: Mapping[str, Any]) -> None:
    """Send ``update`` to RunPod, and return once it has arrived.

    The SDK's public ``progress_update`` sends on a thread that nobody can wait for, so
    an update could arrive after the job's output. This function sends the same request
    with the same functions. ``runpod.serverless`` does not export them: a test compares
    both requests, and fails when the SDK changes its own.
    """
    asyncio.run(_send_progress(job, update))


async def _send_progress(job: Job, update: Mapping[str, Any]) -> None:
    async with AsyncClientSession() as session:
        body = {"status": "IN_PROGRESS", "output": dict(update)}
        await send_result(session, body, dict(job))


def start_config(worker: Callable[[], Worker], handler: Handler) -> dict[str, Any]:
    """Prepare this process, and return the configuration of the SDK's ``start``.

    Sets up the logs, builds the worker and registers the fitness checks. Raises
    SystemExit if a setting is wrong.
    """
    configure_logs()
    try:
        settings = worker().settings
    except AnimateDiffError as error:
        raise SystemExit(f"{error.code}: {error.message}") from None
    RunPodLogger().level = settings.sdk_log_level
    _warn_of_unknown_variables()
    for check in fitness_checks(settings):
        runpod.serverless.register_fitness_check(check)
    log_event("worker_ready", concurrency=settings.concurrency)
    concurrency = settings.concurrency
    return {"handler": handler, "concurrency_modifier": lambda _current: concurrency}


def _warn_of_unknown_variables() -> None:
    if variables := unknown_variables():
        log_event("unknown_variables", level=logging.WARNING, variables=variables)


def serve(worker: Callable[[], Worker], arguments: Sequence[str] = ()) -> None:
    """Take jobs until the process is stopped.

    ``arguments`` are the SDK's: ("--rp_serve_api", "--rp_api_port", "8000") serves its
    local HTTP API. Without them, jobs come from RunPod's queue or test_input.json.
    """
    config = start_config(worker, lambda job: worker()(job))
    sys.argv[1:] = arguments
    runpod.serverless.start(config)
    log_event("shutdown")
