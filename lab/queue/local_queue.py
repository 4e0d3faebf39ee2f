"""Serve the routes of RunPod's serverless SDK (1.12.0) on loopback, and its clients'.

The queue keeps every request. The SDK defines what workers send. This queue defines
when a job goes to another worker: when its worker has not pinged for ``dead_after``
seconds. A job of a living worker whose result is lost stays with that worker.
"""

import json
import select
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from lab.queue import client_api
from lab.queue.jobs import Job, State
from lab.queue.quiet_http import Quiet, QuietServer


@dataclass(frozen=True)
class Call:
    """A request and the status of its answer.

    ``kind``: take, stop, ping, result, progress, stream. ``jobs``: those that the
    request took, stopped, pinged or reported. ``ended``: this result ended the job.
    ``began`` and ``time``: when it came, and when it took effect.
    """

    kind: str
    worker: str
    jobs: tuple[str, ...]
    status: int
    began: float
    time: float
    body: Any = None
    ended: bool = False


@dataclass
class Fault:
    """A fault of the next ``times`` requests of a kind.

    They wait for ``delay`` seconds; then, with a ``status``, they do no more.
    """

    kind: str
    status: int | None
    delay: float
    times: int


class LocalQueue:
    """The queue; it serves during a ``with`` block.

    ``hold``: seconds that a poll without an answer is held open. ``webhook_pause``:
    seconds between two tries of a webhook.
    """

    def __init__(
        self, hold: float = 2.0, dead_after: float = 5.0, webhook_pause: float = 10.0
    ) -> None:
        self.hold, self.dead_after = hold, dead_after
        self.webhook_pause = webhook_pause
        self.calls: list[Call] = []
        self.requeued: list[str] = []
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[str] = deque()
        self._stops: dict[str, list[str]] = {}
        self._pinged: dict[str, float] = {}
        self._faults: list[Fault] = []
        self._changed = threading.Condition(threading.RLock())
        self._closed = False
        self._server = server = _Server(_Handler)
        server.queue = self
        self._threads = (
            threading.Thread(target=server.serve_forever, daemon=True),
            threading.Thread(target=self._watch, daemon=True),
        )

    def __enter__(self) -> "LocalQueue":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    # For clients of the endpoint, and for tests

    @property
    def api_url(self) -> str:
        """The address of RunPod's API with this queue as the endpoint ``local``."""
        return f"{self._server.url}/v2"

    @property
    def workers(self) -> set[str]:
        """The workers that are not silent."""
        with self._changed:
            return self._pinged.keys() - self._silent_workers()

    def submit(
        self, job_input: Any, webhook: str | None = None, *, job_id: str | None = None
    ) -> str:
        """Add a job and return its id, which is a new one unless it is given."""
        with self._changed:
            name = job_id or uuid.uuid4().hex
            job = Job(name, job_input, time.monotonic(), webhook)
            self._jobs[job.id] = job
            self._waiting.append(job.id)
            self._changed.notify_all()
        return job.id

    def cancel(self, job_id: str) -> None:
        """Make the job CANCELLED; the worker that has it learns that, once."""
        with self._changed:
            job = self._jobs[job_id]
            if job.state is State.QUEUED:
                self._waiting.remove(job_id)
            elif job.state is State.IN_PROGRESS and job.worker:
                self._stops.setdefault(job.worker, []).append(job_id)
            if not job.state.final:
                self._end(job, State.CANCELLED)

    def job(self, job_id: str) -> Job:
        """Return the job of this id."""
        return self._jobs[job_id]

    @property
    def jobs(self) -> list[Job]:
        """All jobs so far."""
        with self._changed:
            return list(self._jobs.values())

    def wait(self, job_ids: Iterable[str], timeout: float) -> list[Job]:
        """Wait until all of these jobs have ended. Raises TimeoutError."""
        jobs = [self._jobs[job_id] for job_id in job_ids]

        def unfinished() -> dict[str, str]:
            return {job.id: str(job.state) for job in jobs if not job.state.final}

        self.until(
            lambda: not unfinished(),
            timeout,
            lambda: f"these jobs to end: {unfinished()}",
        )
        return jobs

    def until(
        self,
        is_met: Callable[[], Any],
        timeout: float,
        goal: Callable[[], str] | str = "a condition",
    ) -> None:
        """Wait until ``is_met()``, which is called after every request.

        Raises TimeoutError, whose text names the ``goal``.
        """
        if not self.until_or(is_met, timeout):
            name = goal if isinstance(goal, str) else goal()
            raise TimeoutError(f"waited {timeout:g} s for {name}")

    def until_or(self, is_met: Callable[[], Any], timeout: float) -> bool:
        """Wait as ``until`` does, but return whether ``is_met()`` in time."""
        with self._changed:
            return bool(self._changed.wait_for(is_met, timeout))

    def fail(
        self,
        kind: str,
        status: int | None = None,
        *,
        times: int = 1,
        delay: float = 0.0,
    ) -> None:
        """Answer some requests of ``kind`` with ``status``, or late; see Fault."""
        with self._changed:
            self._faults.append(Fault(kind, status, delay, times))

    def heal(self) -> None:
        """Forget all faults."""
        with self._changed:
            self._faults.clear()

    def of(
        self, *kinds: str, job: str | None = None, worker: str | None = None
    ) -> list[Call]:
        """Return the requests of these kinds, in the order of their effects."""
        with self._changed:
            calls = [call for call in self.calls if call.kind in kinds]
        if job is not None:
            calls = [call for call in calls if job in call.jobs]
        return [call for call in calls if worker in (None, call.worker)]

    # For requests that must never come

    def surplus_results(self) -> list[Call]:
        """Return accepted results of jobs that had one already or were cancelled."""
        results = (call for call in self.of("result") if call.status == 200)
        return [call for call in results if not call.ended]

    def late_progress(self) -> list[Call]:
        """Return progress that came after the job's result."""
        done: set[tuple[str, ...]] = set()
        late: list[Call] = []
        for call in self.of("result", "progress"):
            if call.kind == "result":
                done.add(call.jobs)
            elif call.jobs in done:
                late.append(call)
        return late

    # For workers; called on the server's threads

    def take(self, worker: str, most: int, gone: Callable[[], bool]) -> tuple[int, Any]:
        """Hand out up to ``most`` jobs, as soon as there are some.

        Returns a status and the answer. ``gone``: whether the worker hung up.
        """
        began = time.monotonic()
        status, jobs = self._fault("take"), []
        with self._changed:
            self._pinged.setdefault(worker, began)
            if status is None and self._wait_for_jobs(began + self.hold, gone):
                jobs = self._hand_out(worker, most)
            status = status or (200 if jobs else 204)
            self._record("take", worker, (job.id for job in jobs), status, began)
        return status, [{"id": job.id, "input": job.input} for job in jobs]

    def _wait_for_jobs(self, until: float, gone: Callable[[], bool]) -> bool:
        """Wait for jobs until that time. Return whether to hand some out."""
        while not self._closed and not gone():
            if self._waiting:
                return True
            left = until - time.monotonic()
            if left <= 0:
                return False
            self._changed.wait(left)
        return False

    def _hand_out(self, worker: str, most: int) -> list[Job]:
        count = min(most, len(self._waiting))
        jobs = [self._jobs[self._waiting.popleft()] for _ in range(count)]
        for job in jobs:
            job.state = State.IN_PROGRESS
            job.workers.append(worker)
            job.taken = time.monotonic()
        self._pinged[worker] = time.monotonic()
        return jobs

    def stops(self, worker: str, gone: Callable[[], bool]) -> tuple[int, Any]:
        """Return a status and the jobs of ``worker`` that were cancelled.

        ``gone``: whether the worker hung up.
        """
        began = time.monotonic()

        def has_answer() -> bool:
            return bool(self._stops.get(worker)) or self._closed or gone()

        with self._changed:
            self._changed.wait_for(has_answer, self.hold)
            stopped = [] if gone() else self._stops.pop(worker, [])
            status = 200 if stopped else 204
            self._record("stop", worker, stopped, status, began)
        return status, {"jobsToStop": stopped}

    def ping(self, worker: str, job_ids: list[str]) -> tuple[int, Any]:
        """Note that ``worker`` is alive. Return a status and the answer."""
        began = time.monotonic()
        status = self._fault("ping")
        with self._changed:
            if status is None:
                self._pinged[worker] = time.monotonic()
            self._record("ping", worker, job_ids, status or 200, began)
        return status or 200, {}

    def receive(
        self, kind: str, worker: str, job_id: str, body: Any
    ) -> tuple[int, Any]:
        """Take a result, progress or a part of a stream.

        Returns a status and the answer.
        """
        began = time.monotonic()
        status, ended = self._fault(kind), False
        with self._changed:
            job = self._jobs.get(job_id)
            if job is None:
                status = status or 404
            elif status is None and kind == "result":
                ended = self._take_result(job, body)
            elif status is None and kind == "progress":
                job.progress = body.get("output")
            self._record(kind, worker, (job_id,), status or 200, began, body, ended)
        return status or 200, {}

    def _take_result(self, job: Job, body: Any) -> bool:
        """End the job by this result. Return False if it has ended before."""
        if job.state.final:
            return False
        if job.state is State.QUEUED:  # of a worker that was taken for dead
            self._waiting.remove(job.id)
        job.output, job.error = body.get("output"), body.get("error")
        job.stop_pod = bool(body.get("stopPod"))
        self._end(job, State.FAILED if job.error else State.COMPLETED)
        return True

    def _record(
        self,
        kind: str,
        worker: str,
        job_ids: Iterable[str],
        status: int,
        began: float,
        body: Any = None,
        ended: bool = False,
    ) -> None:
        jobs, now = tuple(job_ids), time.monotonic()
        call = Call(kind, worker, jobs, status, began, now, body, ended)
        self.calls.append(call)
        self._changed.notify_all()

    def _end(self, job: Job, state: State) -> None:
        job.state = state
        job.ended = time.monotonic()
        self._changed.notify_all()
        if job.webhook:
            call = (job.webhook, client_api.status_of(job), self.webhook_pause)
            threading.Thread(target=client_api.notify, args=call, daemon=True).start()

    def _fault(self, kind: str) -> int | None:
        """Apply the first fault of this kind. Return the status to answer, if any."""
        with self._changed:
            faults = (fault for fault in self._faults if fault.kind == kind)
            fault = next((fault for fault in faults if fault.times > 0), None)
            if fault is None:
                return None
            fault.times -= 1
        time.sleep(fault.delay)
        return fault.status

    def _watch(self) -> None:
        """Give the jobs of dead workers to others."""
        while not self._closed:
            time.sleep(0.1)
            with self._changed:
                silent = self._silent_workers()
                for job in self._jobs.values():
                    if job.state is State.IN_PROGRESS and job.worker in silent:
                        self._requeue(job)

    def _silent_workers(self) -> set[str]:
        since = time.monotonic() - self.dead_after
        return {worker for worker, ping in self._pinged.items() if ping < since}

    def _requeue(self, job: Job) -> None:
        job.state = State.QUEUED
        self._waiting.appendleft(job.id)
        self.requeued.append(job.id)
        self._changed.notify_all()


def environment(queue: LocalQueue, worker: str) -> dict[str, str]:
    """Return the variables that RunPod sets for a worker of this queue."""
    base = f"{queue.api_url}/local"
    return {
        "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID?gpu=local",
        "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=local",
        "RUNPOD_WEBHOOK_POST_STREAM": f"{base}/job-stream/$RUNPOD_POD_ID/$ID?gpu=local",
        "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID?gpu=local",
        "RUNPOD_POD_ID": worker,
        "RUNPOD_AI_API_KEY": client_api.KEY,
        "RUNPOD_PING_INTERVAL": "1000",
        "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
        "RUNPOD_SKIP_GPU_CHECK": "true",
    }


class _Server(QuietServer):
    queue: LocalQueue


class _Handler(Quiet, BaseHTTPRequestHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        route, worker, _, query = self._read_url()
        queue = self.server.queue
        if self._answer_client("GET", None):
            return
        if route == "job-take":
            status, jobs = queue.take(worker, 1, self._gone)
            self._answer(status, jobs[0] if jobs else None)
        elif route == "job-take-batch":
            self._answer(*queue.take(worker, int(query["batch_size"]), self._gone))
        elif route == "job-stop":
            self._answer(*queue.stops(worker, self._gone))
        elif route == "ping":
            ids = query.get("job_id", "")
            self._answer(*queue.ping(worker, ids.split(",") if ids else []))
        else:
            self._answer(404)

    def do_POST(self) -> None:
        route, worker, job_id, _ = self._read_url()
        body = self._read_body()
        if self._answer_client("POST", body):
            return
        kind = _kind_of(route, body)
        if kind is None:
            self._answer(404)
        else:
            self._answer(*self.server.queue.receive(kind, worker, job_id, body))

    def _read_body(self) -> Any:
        """Return the JSON of the request, or None if it is none."""
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            return json.loads(text)
        except ValueError:
            return None

    def _answer_client(self, method: str, body: Any) -> bool:
        """Answer a client of the endpoint. Return False for any other request."""
        route, job_id, _, query = self._read_url()
        key = self.headers.get("Authorization", "")
        request = client_api.Request(method, route, job_id, query, body, key)
        answer = client_api.answer(self.server.queue, request)
        if answer is not None:
            self._answer(*answer)
        return answer is not None

    def _read_url(self) -> tuple[str, str, str, dict[str, str]]:
        """Return the route, the worker, the job (or ""), and the query."""
        url = urlsplit(self.path)
        parts = [*map(unquote, url.path.split("/")[3:6]), "", "", ""]
        route, worker, job_id, *_ = parts
        query = parse_qs(url.query)
        return route, worker, job_id, {key: query[key][-1] for key in query}

    def _answer(self, status: int, body: Any = None) -> None:
        self.send_response(status)
        if status == 204:
            self.end_headers()
            return
        text = json.dumps(body).encode()
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _gone(self) -> bool:
        """Return whether the other end hung up: it will never read an answer."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        try:
            return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True


def _kind_of(route: str, body: Any) -> str | None:
    """Return the kind of a posted request, or None for an unknown route."""
    if route == "job-stream":
        return "stream"
    if route != "job-done":
        return None
    is_progress = isinstance(body, dict) and body.get("status") == "IN_PROGRESS"
    return "progress" if is_progress else "result"
