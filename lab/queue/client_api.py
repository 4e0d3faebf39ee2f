"""The side of the queue that clients see: RunPod's API of an endpoint.

Source of the routes and their answers: the operation reference of RunPod's
documentation, and the requests of its Python SDK.
"""

import json
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lab.queue.jobs import Job

KEY = "local"
"""The API key of the endpoint."""
TRIES = 3
"""Of a webhook."""
_WAIT = 90_000
_SECONDS = 10.0
Answer = tuple[int, Any]


@dataclass(frozen=True)
class Request:
    """A client's request. ``job_id`` is empty for routes without one."""

    method: str
    route: str
    job_id: str
    query: Mapping[str, str]
    body: Any
    authorization: str


class Endpoint(Protocol):
    """What this side needs of a queue, see ``LocalQueue``."""

    requeued: list[str]

    @property
    def jobs(self) -> Sequence[Job]:
        """All jobs."""
        ...

    @property
    def workers(self) -> set[str]:
        """The workers that are not silent."""
        ...

    def job(self, job_id: str) -> Job:
        """Return a job by its id."""
        ...

    def submit(self, job_input: Any, webhook: str | None = None) -> str:
        """Add a job and return its id."""
        ...

    def cancel(self, job_id: str) -> None:
        """Cancel a job."""
        ...

    def until_or(self, condition: Callable[[], bool], seconds: float, /) -> bool:
        """Wait until ``condition`` holds, ``seconds`` at most; return whether."""
        ...


def answer(queue: Endpoint, request: Request) -> Answer | None:
    """Return status and body of the answer; None for a route that is no client's."""
    act = ROUTES.get((request.method, request.route))
    if act is None:
        return None
    if request.authorization.removeprefix("Bearer ") != KEY:
        return 401, None
    if request.job_id and request.job_id not in {job.id for job in queue.jobs}:
        return 404, {"error": "job not found"}
    return act(queue, request)


def status_of(job: Job) -> dict[str, Any]:
    """The status of a job, as /status and webhooks have it."""
    status: dict[str, Any] = {"id": job.id, "status": str(job.state)}
    if job.taken is not None:
        status["delayTime"] = round(1000 * (job.taken - job.submitted))
        status["workerId"] = job.worker
        if job.ended is not None:
            status["executionTime"] = round(1000 * (job.ended - job.taken))
    output = job.output if job.state.final else job.progress
    if output is not None:
        status["output"] = output
    if job.error:
        status["error"] = job.error
    return status


def notify(url: str, status: Mapping[str, Any], pause: float) -> None:
    """Send the last status to a webhook; try again if it is not taken."""
    body = json.dumps(dict(status)).encode()
    headers = {"Content-Type": "application/json"}
    for _ in range(TRIES):
        request = urllib.request.Request(url, body, headers)  # noqa: S310 - a test's URL
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as reply:  # noqa: S310 - as above
                if reply.status == 200:
                    return
        except OSError:
            pass
        time.sleep(pause)


def _run(queue: Endpoint, request: Request) -> Answer:
    job_id = _submit(queue, request)
    if job_id is None:
        return 400, {"error": "the body must be an object with input"}
    return 200, {"id": job_id, "status": "IN_QUEUE"}


def _runsync(queue: Endpoint, request: Request) -> Answer:
    job_id = _submit(queue, request)
    if job_id is None:
        return 400, {"error": "the body must be an object with input"}
    job = queue.job(job_id)
    seconds = int(request.query.get("wait", _WAIT)) / 1000
    queue.until_or(lambda: job.state.final, seconds)
    return 200, status_of(job)


def _submit(queue: Endpoint, request: Request) -> str | None:
    if not isinstance(request.body, dict) or "input" not in request.body:
        return None
    return queue.submit(request.body["input"], request.body.get("webhook"))


def _status(queue: Endpoint, request: Request) -> Answer:
    return 200, status_of(queue.job(request.job_id))


def _cancel(queue: Endpoint, request: Request) -> Answer:
    queue.cancel(request.job_id)
    return _status(queue, request)


def _stream(queue: Endpoint, request: Request) -> Answer:
    return 200, {"status": str(queue.job(request.job_id).state), "stream": []}


def _health(queue: Endpoint, _request: Request) -> Answer:
    states = Counter(str(job.state) for job in queue.jobs)
    jobs = {
        "completed": states["COMPLETED"],
        "failed": states["FAILED"],
        "inProgress": states["IN_PROGRESS"],
        "inQueue": states["IN_QUEUE"],
        "retried": len(queue.requeued),
    }
    running = {job.worker for job in queue.jobs if str(job.state) == "IN_PROGRESS"}
    idle = queue.workers - running
    return 200, {"jobs": jobs, "workers": {"idle": len(idle), "running": len(running)}}


ROUTES: Mapping[tuple[str, str], Callable[[Endpoint, Request], Answer]] = {
    ("POST", "run"): _run,
    ("POST", "runsync"): _runsync,
    ("GET", "status"): _status,
    ("POST", "cancel"): _cancel,
    ("GET", "stream"): _stream,
    ("GET", "health"): _health,
}
