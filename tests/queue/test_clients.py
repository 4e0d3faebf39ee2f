"""Every program in docs/clients.md runs, against the local queue and a real worker.

The retries, which need a worker that fails, run against a scripted one.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from animatediff.errors import InvalidRequest, StorageError
from animatediff.video.reading import count_frames
from lab.queue.client_api import KEY
from lab.queue.jobs import State
from lab.queue.local_queue import LocalQueue
from lab.queue.workers import WorkerProcess, content_of
from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs" / "clients.md"
API = "https://api.runpod.ai/v2"
TOKEN = "a-secret-of-yours"
SHORT = {"prompt": "a red circle", "num_frames": 4, "num_inference_steps": 2, "seed": 7}


def program(language: str, mark: str) -> str:
    """The block of the page with ``mark``, and with no other."""
    (block,) = [block for block in blocks(PAGE, language) if mark in block]
    return block


CURL = program("bash", "while :")
CURL_SYNC = program("bash", "/runsync")
CURL_CANCEL = program("bash", "/cancel/")
PYTHON = program("python", "job.cancel()")
PYTHON_ASYNC = program("python", "AsyncioEndpoint(")
PYTHON_RETRIES = program("python", "retryable")
WEBHOOK = program("python", "HTTPServer(")
JAVASCRIPT = program("js", "fetch(")


def test_no_program_of_the_page_is_left_out() -> None:
    tested = (CURL, CURL_SYNC, CURL_CANCEL, JAVASCRIPT)
    tested += (PYTHON, PYTHON_ASYNC, PYTHON_RETRIES, WEBHOOK)
    on_page = [each for kind in ("bash", "js", "python") for each in blocks(PAGE, kind)]
    assert sorted(tested) == sorted(on_page)
    fences = PAGE.read_text(encoding="utf-8").count("```")
    assert fences == 2 * (len(on_page) + len(blocks(PAGE, "json")))


@dataclass(frozen=True)
class Client:
    """Runs programs of the page in a folder, as a client of a queue."""

    queue: LocalQueue
    folder: Path

    def command(self, language: str, text: str) -> list[str]:
        """The command that runs a program, whose address becomes the queue's."""
        path = self.folder / f"clip.{'mjs' if language == 'js' else language}"
        path.write_text(text.replace(API, self.queue.api_url), encoding="utf-8")
        names = {"bash": "bash", "python": sys.executable, "js": "node"}
        interpreter = shutil.which(names[language])
        if interpreter is None:
            pytest.skip(f"{names[language]} is not installed on this machine")
        return [interpreter, *(["-eu"] if language == "bash" else []), path.name]

    def environment(self, **more: str) -> dict[str, str]:
        return {
            **os.environ,
            "ENDPOINT_ID": "local",
            "RUNPOD_API_KEY": KEY,
            "RUNPOD_ENDPOINT_BASE_URL": self.queue.api_url,
            **more,
        }

    def run(
        self, language: str, text: str, **more: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(language, text),
            cwd=self.folder,
            env=self.environment(**more),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalQueue]:
    folder = tmp_path_factory.mktemp("clients")
    with (
        LocalQueue(webhook_pause=0.2) as queue,
        WorkerProcess(queue, folder, "clients") as worker,
    ):
        worker.ready()
        yield queue


@pytest.fixture
def client(served: LocalQueue, tmp_path: Path) -> Client:
    return Client(served, tmp_path)


def assert_saved(client: Client, name: str = "clip.mp4") -> None:
    """The file is the clip of the last job, as its output describes it."""
    job = client.queue.jobs[-1]
    assert job.state is State.COMPLETED
    path = client.folder / name
    assert path.read_bytes() == content_of(job.output)
    assert count_frames(path) == job.input["num_frames"] == 8


@pytest.mark.parametrize(
    ("language", "text"),
    [("bash", CURL), ("python", PYTHON), ("js", JAVASCRIPT)],
    ids=["curl", "python", "javascript"],
)
def test_a_program_saves_the_clip(language: str, text: str, client: Client) -> None:
    done = client.run(language, text)
    assert done.returncode == 0, done.stderr
    assert_saved(client)


@pytest.mark.parametrize(
    ("language", "text"),
    [("bash", CURL), ("python", PYTHON), ("js", JAVASCRIPT)],
    ids=["curl", "python", "javascript"],
)
def test_a_program_fails_with_the_worker_s_error(
    language: str, text: str, client: Client
) -> None:
    wrong = text.replace("num_frames", "num_framse")
    assert wrong != text
    done = client.run(language, wrong)
    assert done.returncode != 0
    assert "INVALID_REQUEST" in done.stderr
    assert "did you mean num_frames" in done.stderr
    assert not (client.folder / "clip.mp4").exists()


@pytest.mark.parametrize(
    ("language", "text"),
    [("bash", CURL), ("python", PYTHON), ("js", JAVASCRIPT)],
    ids=["curl", "python", "javascript"],
)
def test_a_wrong_key_ends_a_program(language: str, text: str, client: Client) -> None:
    before = len(client.queue.jobs)
    done = client.run(language, text, RUNPOD_API_KEY="another")
    assert done.returncode != 0
    assert "401" in done.stderr
    assert len(client.queue.jobs) == before


def test_one_request_waits_for_the_clip(client: Client) -> None:
    done = client.run("bash", CURL_SYNC)
    assert done.returncode == 0, done.stderr
    status = json.loads((client.folder / "status.json").read_text())
    assert status["status"] == "COMPLETED"
    assert status["output"] == client.queue.jobs[-1].output


def test_a_job_is_cancelled(client: Client) -> None:
    job_id = client.queue.submit({**SHORT, "num_frames": 32, "num_inference_steps": 99})
    job = client.queue.job(job_id)
    client.queue.until(lambda: job.progress, 60, "progress")
    done = client.run("bash", CURL_CANCEL, JOB_ID=job_id)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "CANCELLED"
    assert job.state is State.CANCELLED


def test_the_async_client_makes_several_clips(client: Client) -> None:
    done = client.run("python", PYTHON_ASYNC)
    assert done.returncode == 0, done.stderr
    names = {"a-red-circle.mp4", "a-blue-square.mp4", "a-green-triangle.mp4"}
    assert set(done.stdout.split()) == names
    jobs = client.queue.jobs[-3:]
    assert {content_of(job.output) for job in jobs} == {
        (client.folder / name).read_bytes() for name in names
    }


@pytest.mark.parametrize("wrong", [False, True], ids=["completed", "failed"])
def test_a_webhook_receives_the_end_once(wrong: bool, client: Client) -> None:
    port = free_port()
    command = client.command("python", WEBHOOK.replace("8080", str(port)))
    process = subprocess.Popen(
        command,
        cwd=client.folder,
        env=client.environment(WEBHOOK_TOKEN=TOKEN),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{port}/clips?token={TOKEN}"
        changes = {"width": 513} if wrong else {}
        job_id = client.queue.submit({**SHORT, **changes}, url)
        line = process.stdout.readline()
    finally:
        process.kill()
        process.communicate()
    job = client.queue.job(job_id)
    if wrong:
        assert line == f"{job_id} {job.error}\n"
    else:
        assert line == f"{job_id} {job.output['bytes']} bytes\n"


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Script:
    """A worker that answers its jobs with ``results``, one after the other."""

    def __init__(self, queue: LocalQueue, results: list[dict[str, Any]]) -> None:
        self.inputs: list[dict[str, Any]] = []
        self._queue, self._results = queue, results
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        for result in self._results:
            jobs: list[dict[str, Any]] = []
            while not jobs:
                _, jobs = self._queue.take("script", 1, lambda: False)
            self.inputs.append(jobs[0]["input"])
            self._queue.receive("result", "script", jobs[0]["id"], result)


BUSY = {"error": json.dumps(StorageError("the bucket is busy").to_dict())}
LOST = {"error": "job timed out after 1 retries"}
WRONG = {"error": json.dumps(InvalidRequest("width", 513, "a multiple of 8").to_dict())}
DONE = {"output": {"url": "https://example.org/clip.mp4"}}


@pytest.mark.parametrize(
    ("results", "end"),
    [
        ([DONE], "https://example.org/clip.mp4"),
        ([BUSY, LOST, DONE], "https://example.org/clip.mp4"),
        ([BUSY, WRONG], "INVALID_REQUEST: width: got 513"),
        ([BUSY, BUSY, BUSY, BUSY], "STORAGE_FAILED: the bucket is busy"),
    ],
    ids=["at once", "third try", "wrong", "never"],
)
def test_what_may_succeed_is_sent_again_with_its_seed(
    results: list[dict[str, Any]], end: str, tmp_path: Path
) -> None:
    with LocalQueue(hold=0.1) as queue:
        script = Script(queue, results)
        pauses = "(1, 5, 30)"
        assert pauses in PYTHON_RETRIES
        text = PYTHON_RETRIES.replace(pauses, "(0, 0, 0)")
        began = time.monotonic()
        done = Client(queue, tmp_path).run("python", text)
        assert time.monotonic() - began < 60
        assert end in done.stdout + done.stderr
        assert (done.returncode == 0) == (results[-1] is DONE)
        assert len(queue.jobs) == len(results)
        assert len({each["seed"] for each in script.inputs}) == 1
