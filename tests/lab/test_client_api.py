"""The local queue as an endpoint: RunPod's own clients use it, and webhooks arrive."""

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
import requests
import runpod
from runpod import AsyncioEndpoint, http_client

from lab.queue.client_api import KEY
from lab.queue.local_queue import LocalQueue
from lab.queue.quiet_http import Quiet, QuietServer
from schemas.platform import JobReceipt, JobStatus, Stream

INPUT = {"prompt": "a red circle"}
PROGRESS = {"phase": "denoise", "step": 1, "total": 2}
ERROR = json.dumps({"code": "INTERNAL", "message": "a bug", "retryable": False})


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalQueue]:
    with LocalQueue(hold=0.2, webhook_pause=0.05) as running:
        monkeypatch.setattr(runpod, "endpoint_url_base", running.api_url)
        monkeypatch.setattr(runpod, "api_key", KEY)
        yield running


def take(queue: LocalQueue) -> str:
    _, jobs = queue.take("w1", 1, lambda: False)
    return jobs[0]["id"]


def call(queue: LocalQueue, method: str, route: str, key: str = KEY, **body: Any):
    headers = {"Authorization": f"Bearer {key}"}
    url = f"{queue.api_url}/local/{route}"
    return requests.request(method, url, headers=headers, json=body or None, timeout=9)


def test_a_job_from_its_receipt_to_its_result(queue: LocalQueue) -> None:
    receipt = call(queue, "POST", "run", input=INPUT).json()
    JobReceipt.model_validate(receipt)
    assert read(queue, receipt["id"])["status"] == "IN_QUEUE"
    job_id = take(queue)
    assert job_id == receipt["id"]
    queue.receive("progress", "w1", job_id, {"output": PROGRESS})
    running = read(queue, job_id)
    assert (running["status"], running["output"]) == ("IN_PROGRESS", PROGRESS)
    queue.receive("result", "w1", job_id, {"error": ERROR})
    failed = read(queue, job_id)
    assert failed["error"] == ERROR
    assert "output" not in failed
    assert failed["workerId"] == "w1"
    assert failed["executionTime"] >= 0


def read(queue: LocalQueue, job_id: str) -> dict[str, Any]:
    status = call(queue, "GET", f"status/{job_id}").json()
    JobStatus.model_validate(status)
    return status


def test_requests_that_are_refused(queue: LocalQueue) -> None:
    assert call(queue, "POST", "run", key="other", input=INPUT).status_code == 401
    assert call(queue, "POST", "run", prompt="a").status_code == 400
    assert call(queue, "POST", "runsync").status_code == 400
    assert call(queue, "GET", "status/none").status_code == 404
    assert call(queue, "GET", "anything").status_code == 404


def test_runsync_waits_no_longer_than_asked(queue: LocalQueue) -> None:
    assert call(queue, "POST", "runsync?wait=50", input=INPUT).json()["status"] == (
        "IN_QUEUE"
    )


def test_health_counts_jobs_and_workers(queue: LocalQueue) -> None:
    queue.submit(INPUT)
    queue.submit(INPUT)
    take(queue)
    health = runpod.Endpoint("local").health()
    assert health["jobs"]["inQueue"] == health["jobs"]["inProgress"] == 1
    assert health["workers"] == {"idle": 0, "running": 1}


def test_the_sdk_s_client_runs_and_cancels(queue: LocalQueue) -> None:
    job = runpod.Endpoint("local").run(INPUT)
    assert job.status() == "IN_QUEUE"
    take(queue)
    assert job.cancel()["status"] == "CANCELLED"
    assert job.status() == "CANCELLED"
    Stream.model_validate(call(queue, "GET", f"stream/{job.job_id}").json())


def test_the_sdk_s_async_client_gets_the_output(queue: LocalQueue) -> None:
    async def run() -> Any:
        async with http_client.AsyncClientSession() as session:
            job = await AsyncioEndpoint("local", session).run(INPUT)
            job_id = await asyncio.to_thread(take, queue)
            queue.receive("result", "w1", job_id, {"output": {"url": "x"}})
            return await job.output(timeout=5)

    assert asyncio.run(run()) == {"url": "x"}


class Receiver(QuietServer):
    """A webhook that answers with ``statuses``, one after the other."""

    def __init__(self, statuses: list[int]) -> None:
        self.statuses, self.bodies = statuses, []
        self.done = threading.Event()
        super().__init__(_Receive)


class _Receive(Quiet, BaseHTTPRequestHandler):
    server: Receiver  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.server.bodies.append(json.loads(self.rfile.read(length)))
        self.send_response(self.server.statuses.pop(0))
        self.send_header("Content-Length", "0")
        self.end_headers()
        if not self.server.statuses:
            self.server.done.set()


@pytest.mark.parametrize("statuses", [[200], [500, 200], [500, 404, 500]])
def test_a_webhook_gets_the_last_status_until_it_takes_it(
    statuses: list[int], queue: LocalQueue
) -> None:
    receiver, count = Receiver(statuses), len(statuses)
    receiver.start()
    try:
        job_id = queue.submit(INPUT, receiver.url)
        queue.cancel(job_id)
        assert receiver.done.wait(5)
    finally:
        receiver.stop()
    assert receiver.bodies == [{"id": job_id, "status": "CANCELLED"}] * count
