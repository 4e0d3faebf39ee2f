"""A queue on loopback that speaks the routes of RunPod's serverless SDK (1.12.0), and
keeps every request it gets.

What workers send is the SDK's. When a job is given to another worker is this queue's
own rule: when the worker that has it was not heard pinging for ``dead_after`` seconds.
A job of a living worker, its result lost, stays where it is.
"""

import json
import select
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from lab.queue.quiet_http import Quiet, QuietServer


class State(StrEnum):
    QUEUED = "QUEUED"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def final(self) -> bool:
        return self not in (State.QUEUED, State.IN_PROGRESS)


@dataclass
class Job:
    """``workers`` are all that it was given to, the last one last. Times are of
    time.monotonic().
    """

    id: str
    input: Any
    submitted: float
    state: State = State.QUEUED
    workers: list[str] = field(default_factory=list)
    output: Any = None
    error: str | None = None
    stop_pod: bool = False
    ended: float | None = None

    @property
    def worker(self) -> str | None:
        """Who has it, or had it last."""
        return self.workers[-1] if self.workers else None


@dataclass(frozen=True)
class Call:
    """A request as it was answered.

    ``kind``: take, stop, ping, result, progress, stream. ``jobs``: those given,
    stopped, pinged or told of. ``ended``: this result is the one that ended the job.
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
    """The next ``times`` requests of a kind wait for ``delay`` seconds; then, with a
    ``status``, they do no more.
    """

    kind: str
    status: int | None
    delay: float
    times: int


class LocalQueue:
    """Use it in a ``with`` block. ``hold``: seconds that a poll without an answer is
    held open.
    """

    def __init__(self, hold: float = 2.0, dead_after: float = 5.0) -> None:
        self.hold, self.dead_after = hold, dead_after
        self.calls: list[Call] = []
        self.requeued: list[str] = []
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[str] = deque()
        self._stops: dict[str, list[str]] = {}
        self._pinged: dict[str, float] = {}
        self._faults: list[Fault] = []
        self._changed = threading.Condition(threading.RLock())
        self._closed = False
        self._server = _Server(_Handler)
        self._server.queue = self
        self._threads = [
            threading.Thread(target=run, daemon=True)
            for run in (self._server.serve_forever, self._watch)
        ]

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

    # What a client of the endpoint, or a test, does

    def submit(self, job_input: Any) -> str:
        """The id of a new job."""
        with self._changed:
            job = Job(uuid.uuid4().hex, job_input, time.monotonic())
            self._jobs[job.id] = job
            self._waiting.append(job.id)
            self._changed.notify_all()
        return job.id

    def cancel(self, job_id: str) -> None:
        """From now on the job is CANCELLED; the worker that has it is told so, once."""
        with self._changed:
            job = self._jobs[job_id]
            if job.state is State.QUEUED:
                self._waiting.remove(job_id)
            elif job.state is State.IN_PROGRESS and job.worker:
                self._stops.setdefault(job.worker, []).append(job_id)
            if not job.state.final:
                self._end(job, State.CANCELLED)

    def job(self, job_id: str) -> Job:
        return self._jobs[job_id]

    @property
    def jobs(self) -> list[Job]:
        with self._changed:
            return list(self._jobs.values())

    def wait(self, job_ids: Iterable[str], timeout: float) -> list[Job]:
        """The jobs, when all have ended. Raises TimeoutError."""
        jobs = [self._jobs[job_id] for job_id in job_ids]
        self.until(
            lambda: all(job.state.final for job in jobs),
            timeout,
            lambda: (
                "these jobs to end: "
                + str({job.id: str(job.state) for job in jobs if not job.state.final})
            ),
        )
        return jobs

    def until(
        self,
        true: Callable[[], Any],
        timeout: float,
        what: Callable[[], str] | str = "a condition",
    ) -> None:
        """Wait until ``true()``, which is asked after every request. Raises
        TimeoutError that says ``what``.
        """
        with self._changed:
            if not self._changed.wait_for(true, timeout):
                said = what if isinstance(what, str) else what()
                raise TimeoutError(f"waited {timeout:g} s for {said}")

    def fail(
        self,
        kind: str,
        status: int | None = None,
        *,
        times: int = 1,
        delay: float = 0.0,
    ) -> None:
        """Answer the next ``times`` requests of ``kind`` with ``status``, or only after
        ``delay``; see Fault.
        """
        with self._changed:
            self._faults.append(Fault(kind, status, delay, times))

    def heal(self) -> None:
        """Forget all faults."""
        with self._changed:
            self._faults.clear()

    def of(
        self, *kinds: str, job: str | None = None, worker: str | None = None
    ) -> list[Call]:
        """The requests of these kinds so far, in the order in which they took effect."""
        with self._changed:
            return [
                call
                for call in self.calls
                if call.kind in kinds
                and (job is None or job in call.jobs)
                and worker in (None, call.worker)
            ]

    # What must never be, by the requests so far

    def surplus_results(self) -> list[Call]:
        """Results that were received of jobs that had one already, or that were
        cancelled.
        """
        return [
            call for call in self.of("result") if call.status == 200 and not call.ended
        ]

    def late_progress(self) -> list[Call]:
        """Progress that was received after the job's result."""
        done: set[tuple[str, ...]] = set()
        late = []
        for call in self.of("result", "progress"):
            if call.kind == "result":
                done.add(call.jobs)
            elif call.jobs in done:
                late.append(call)
        return late

    # What workers do; called on the server's threads

    def take(self, worker: str, most: int, gone: Callable[[], bool]) -> tuple[int, Any]:
        began, until = time.monotonic(), time.monotonic() + self.hold
        status = self._fault("take")
        given: list[Job] = []
        with self._changed:
            self._pinged.setdefault(worker, began)
            while status is None and not given and not self._closed and not gone():
                if not self._waiting:
                    if time.monotonic() >= until:
                        break
                    self._changed.wait(until - time.monotonic())
                    continue
                given = [
                    self._jobs[self._waiting.popleft()]
                    for _ in range(min(most, len(self._waiting)))
                ]
                for job in given:
                    job.state = State.IN_PROGRESS
                    job.workers.append(worker)
                self._pinged[worker] = time.monotonic()
            status = status or (200 if given else 204)
            self._record("take", worker, (job.id for job in given), status, began)
        return status, [{"id": job.id, "input": job.input} for job in given]

    def stops(self, worker: str, gone: Callable[[], bool]) -> tuple[int, Any]:
        began = time.monotonic()
        with self._changed:
            self._changed.wait_for(
                lambda: self._stops.get(worker) or self._closed or gone(), self.hold
            )
            stopped = [] if gone() else self._stops.pop(worker, [])
            status = 200 if stopped else 204
            self._record("stop", worker, stopped, status, began)
        return status, {"jobsToStop": stopped}

    def ping(self, worker: str, job_ids: list[str]) -> tuple[int, Any]:
        began = time.monotonic()
        status = self._fault("ping")
        with self._changed:
            if status is None:
                self._pinged[worker] = time.monotonic()
            self._record("ping", worker, job_ids, status or 200, began)
        return status or 200, {}

    def told(self, kind: str, worker: str, job_id: str, body: Any) -> tuple[int, Any]:
        """A result, or progress, or a part of a stream."""
        began = time.monotonic()
        status = self._fault(kind)
        with self._changed:
            job = self._jobs.get(job_id)
            if job is None:
                status = status or 404
            ended = (
                kind == "result"
                and status is None
                and job is not None
                and not job.state.final
            )
            if ended and job is not None:
                if job.state is State.QUEUED:  # of a worker that was taken for dead
                    self._waiting.remove(job_id)
                job.output, job.error, job.stop_pod = (
                    body.get("output"),
                    body.get("error"),
                    bool(body.get("stopPod")),
                )
                self._end(job, State.FAILED if job.error else State.COMPLETED)
            self._record(kind, worker, (job_id,), status or 200, began, body, ended)
        return status or 200, {}

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
        self.calls.append(
            Call(
                kind,
                worker,
                tuple(job_ids),
                status,
                began,
                time.monotonic(),
                body,
                ended,
            )
        )
        self._changed.notify_all()

    def _end(self, job: Job, state: State) -> None:
        job.state, job.ended = state, time.monotonic()
        self._changed.notify_all()

    def _fault(self, kind: str) -> int | None:
        with self._changed:
            fault = next(
                (
                    fault
                    for fault in self._faults
                    if fault.kind == kind and fault.times > 0
                ),
                None,
            )
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
                silent = {
                    name
                    for name, heard in self._pinged.items()
                    if time.monotonic() - heard > self.dead_after
                }
                for job in self._jobs.values():
                    if job.state is State.IN_PROGRESS and job.worker in silent:
                        job.state = State.QUEUED
                        self._waiting.appendleft(job.id)
                        self.requeued.append(job.id)
                        self._changed.notify_all()


def environment(queue: LocalQueue, worker: str) -> dict[str, str]:
    """What RunPod sets for a worker of this queue."""
    base = f"{queue._server.url}/v2/local"
    return {
        "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID?gpu=local",
        "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=local",
        "RUNPOD_WEBHOOK_POST_STREAM": f"{base}/job-stream/$RUNPOD_POD_ID/$ID?gpu=local",
        "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID?gpu=local",
        "RUNPOD_POD_ID": worker,
        "RUNPOD_AI_API_KEY": "local",
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
        if route == "job-take":
            status, jobs = queue.take(worker, 1, self._gone)
            self._answer(status, jobs[0] if jobs else None)
        elif route == "job-take-batch":
            self._answer(*queue.take(worker, int(query["batch_size"]), self._gone))
        elif route == "job-stop":
            self._answer(*queue.stops(worker, self._gone))
        elif route == "ping":
            self._answer(
                *queue.ping(
                    worker, query["job_id"].split(",") if query.get("job_id") else []
                )
            )
        else:
            self._answer(404)

    def do_POST(self) -> None:
        route, worker, job_id, _ = self._read_url()
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if route == "job-done":
            kind = (
                "progress"
                if isinstance(body, dict) and body.get("status") == "IN_PROGRESS"
                else "result"
            )
        elif route == "job-stream":
            kind = "stream"
        else:
            self._answer(404)
            return
        self._answer(*self.server.queue.told(kind, worker, job_id, body))

    def _read_url(self) -> tuple[str, str, str, dict[str, str]]:
        """Route, worker, job (or nothing), and the query."""
        url = urlsplit(self.path)
        route, worker, job_id = [*url.path.split("/")[3:6], "", "", ""][:3]
        return (
            route,
            worker,
            job_id,
            {key: values[-1] for key, values in parse_qs(url.query).items()},
        )

    def _answer(self, status: int, body: Any = None) -> None:
        text = b"" if status == 204 else json.dumps(body).encode()
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _gone(self) -> bool:
        """Whether the other end hung up: it will never read an answer."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        try:
            return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True
