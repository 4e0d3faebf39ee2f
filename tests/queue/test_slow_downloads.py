"""Real workers whose jobs download from a host that sends a byte at a time."""

import json
import ssl
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from lab.hostile.certificates import make_certificate
from lab.queue.jobs import State
from lab.queue.local_queue import LocalQueue
from lab.queue.workers import WorkerProcess
from tests.queue.test_queue import TINY, assert_orderly
from tests.web_site import Answer, Site, running

STOP_SECONDS = 2


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(make_certificate(tmp_path))
    with running(Site(context)) as site:
        for name in "abc":
            site.gives(Answer(drips="body"), path=f"/{name}.safetensors")
        yield site


@pytest.fixture
def environment(tmp_path: Path) -> Mapping[str, str]:
    return {
        "ANIMATEDIFF_OFFLINE": "0",
        "ANIMATEDIFF_CACHE_DIR": str(tmp_path / "cache"),
        "ANIMATEDIFF_STOP_SECONDS": str(STOP_SECONDS),
        "RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS": "1",
        "REQUESTS_CA_BUNDLE": str(tmp_path / "certificate.pem"),
    }


def slow(site: Site, name: str) -> dict[str, object]:
    return {**TINY, "loras": [{"path": site.url(f"/{name}.safetensors")}]}


def until_asked(site: Site, times: int) -> None:
    end = time.monotonic() + 60
    while len(site.asked) < times:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_cancelled_downloads_leave_the_worker_free(
    site: Site, environment: Mapping[str, str], tmp_path: Path
) -> None:
    with (
        LocalQueue() as queue,
        WorkerProcess(queue, tmp_path, "w", environment) as worker,
    ):
        worker.ready()
        for number, name in enumerate("abc"):
            job = queue.submit(slow(site, name))
            until_asked(site, number + 1)
            queue.cancel(job)
            worker.until_event("job_cancelled", job=job, timeout=15)
        assert queue.wait([queue.submit(TINY)], 30)[0].state is State.COMPLETED
        assert site.left.wait(5)
        assert not list((tmp_path / "cache").glob("*/.writing-*"))
        assert_orderly(queue)


def test_sigterm_ends_a_download_in_time(
    site: Site, environment: Mapping[str, str], tmp_path: Path
) -> None:
    with (
        LocalQueue() as queue,
        WorkerProcess(queue, tmp_path, "w", environment) as worker,
    ):
        worker.ready()
        job = queue.submit(slow(site, "a"))
        until_asked(site, 1)
        worker.terminate()
        assert worker.wait(timeout=STOP_SECONDS + queue.hold + 10) == 0
        (ended,) = queue.wait([job], 5)
        error = json.loads(ended.error or "")
        assert (error["code"], error["retryable"]) == ("WORKER_STOPPED", True)
        assert_orderly(queue)


def test_the_time_limit_ends_a_download(
    site: Site, environment: Mapping[str, str], tmp_path: Path
) -> None:
    environment = {**environment, "ANIMATEDIFF_JOB_TIMEOUT_SECONDS": "4"}
    with (
        LocalQueue() as queue,
        WorkerProcess(queue, tmp_path, "w", environment) as worker,
    ):
        worker.ready()
        (job,) = queue.wait([queue.submit(slow(site, "a"))], 30)
        error = json.loads(job.error or "")
        assert (error["code"], error["phase"]) == ("TIMED_OUT", "download")
        assert error["retryable"]
