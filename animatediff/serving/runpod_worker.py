"""The worker under RunPod's SDK: what handler.py and ``animatediff serve`` start."""

import logging
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import cache, partial
from typing import Any

from ..engine import Engine
from ..errors import AnimateDiffError
from ..settings import Settings, unknown_variables
from ..threads import Threads
from . import runpod_sdk
from .fitness import fitness_checks
from .job import Answer, JobRunner, Parse, Render
from .logs import configure_logs, log_event
from .progress import BarProgress, JobProgress, ThrottledProgress
from .shutdown import Shutdown
from .storage import make_storage
from .worker import Worker

SWITCH_SECONDS = 1e-4
"""How long a thread may keep the interpreter while another one waits for it.

The thread that launches the device's work asks for it at every launch. Python's own
5 ms would leave the device idle beside a thread that computes in Python.
"""
Job = Mapping[str, Any]
Handler = Callable[[Job], Coroutine[Any, Any, Answer]]


def build_worker(settings: Settings, parse: Parse, render: Render) -> Worker:
    """The worker of this process, with its engine and storage.

    Models begin to load at once. Raises ConfigurationError.
    """
    engine = Engine(settings)
    storage = make_storage(settings)
    runner = JobRunner(engine, storage, settings, parse, render)
    return Worker(
        runner,
        _progress_of(settings),
        warm=engine.warm,
        concurrency=settings.concurrency,
        shutdown=Shutdown(settings.stop_seconds, runner.status.stopped),
    )


def _progress_of(settings: Settings) -> Callable[[Job], JobProgress]:
    """Make the progress of a job: for RunPod's clients, or for a terminal."""
    if not settings.on_platform:
        return lambda _job: BarProgress()
    senders = Threads(settings.concurrency, "progress")
    return lambda job: ThrottledProgress(
        partial(runpod_sdk.send_progress, job), senders
    )


def start_config(worker: Callable[[], Worker], handler: Handler) -> dict[str, Any]:
    """Prepare this process, and return the configuration of the SDK's ``start``.

    Sets up the logs and the interpreter's threads, builds the worker and registers the
    fitness checks. Raises SystemExit if a setting is wrong.
    """
    configure_logs()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        settings = worker().settings
    except AnimateDiffError as error:
        raise SystemExit(f"{error.code}: {error.message}") from None
    runpod_sdk.set_log_level(settings.sdk_log_level)
    _warn_of_unknown_variables()
    for check in fitness_checks(settings):
        runpod_sdk.register_fitness_check(check)
    log_event("worker_ready", concurrency=settings.concurrency)

    def concurrency(_current: int) -> int:
        """Answer the SDK, which asks how many jobs to take before it takes any."""
        worker().heed_signals()
        return settings.concurrency

    return {
        "handler": handler,
        "concurrency_modifier": concurrency,
        "refresh_worker": Replacement(worker()),
    }


class Replacement:
    """True once the worker has to be replaced.

    The SDK looks at this option after each job. It then takes no more jobs, ends the
    process, and asks the platform for another worker.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def __bool__(self) -> bool:
        return self._worker.has_to_be_replaced


def _warn_of_unknown_variables() -> None:
    if variables := unknown_variables():
        log_event("unknown_variables", level=logging.WARNING, variables=variables)


def serve(build: Callable[[], Worker], arguments: Sequence[str] = ()) -> None:
    """Build the worker, and take jobs until the process is stopped.

    ``arguments`` are the SDK's: ("--rp_serve_api", "--rp_api_port", "8000") serves its
    local HTTP API. Without them, jobs come from RunPod's queue or test_input.json.
    """
    worker = cache(build)
    runpod_sdk.start(start_config(worker, lambda job: worker()(job)), arguments)
    log_event("shutdown")
