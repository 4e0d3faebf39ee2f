"""The worker's wiring, and its calls into the real SDK."""

import json
import logging
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import runpod
from runpod.serverless.modules import rp_http
from runpod.serverless.modules.rp_fitness import clear_fitness_checks
from runpod.serverless.modules.rp_logger import RunPodLogger

from animatediff.errors import ConfigurationError, StorageError
from animatediff.serving import runpod_sdk, runpod_worker
from animatediff.serving.logs import LIBRARIES, TALKATIVE, configure_logs
from animatediff.serving.progress import BarProgress, ThrottledProgress
from animatediff.serving.storage import LocalStorage
from animatediff.serving.worker import Worker
from animatediff.settings import PROJECT_ROOT, Settings
from lab.queue.quiet_http import Quiet, QuietServer
from schemas import parse_job_input, render_job_output

UPDATE = {"phase": "denoise", "step": 3, "total": 25, "seconds_left": 7.5}
JOB = {"id": "job-1", "input": {"prompt": "x"}}


class Requests(QuietServer):
    """A server that keeps every request: path, chosen headers, body."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.kept: list[tuple[str, dict[str, str], Any]] = []

    def one(self) -> tuple[str, dict[str, str], Any]:
        """Wait for a request, and forget it."""
        for _ in range(500):
            if self.kept:
                return self.kept.pop()
            time.sleep(0.01)
        raise TimeoutError("no request came")


class _Handler(Quiet, BaseHTTPRequestHandler):
    server: Requests  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_POST(self) -> None:
        time.sleep(0.1)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name: self.headers[name] for name in ("X-Request-ID", "charset")}
        headers["Content-Type"] = ", ".join(self.headers.get_all("Content-Type") or ())
        self.server.kept.append((self.path, headers, json.loads(body)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Iterator[Requests]:
    server = Requests()
    url = f"{server.url}/v2/local/job-done/pod/$ID?gpu=local"
    monkeypatch.setattr(rp_http, "JOB_DONE_URL", url)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put back what starting a worker changes in this process."""
    names = ("", *LIBRARIES, *TALKATIVE)
    levels = {name: logging.getLogger(name).level for name in names}
    handlers = logging.getLogger().handlers[:]
    signals = {
        number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)
    }
    monkeypatch.setattr(RunPodLogger(), "level", RunPodLogger().level)
    interval = sys.getswitchinterval()
    yield
    sys.setswitchinterval(interval)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.getLogger().handlers[:] = handlers
    for number, handler in signals.items():
        signal.signal(number, handler)
    clear_fitness_checks()


@pytest.fixture
def no_models(tmp_path: Path) -> Settings:
    """Settings of a worker that starts at once: it has nothing to load."""
    return Settings(models_dir=tmp_path, output_dir=tmp_path)


def build(settings: Settings) -> Worker:
    return runpod_worker.build_worker(settings, parse_job_input, render_job_output)


def events(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    return {line["event"]: line for line in lines}


def test_progress_is_sent_as_the_sdk_sends_it(requests: Requests) -> None:
    """If this fails, the SDK changed its request: ``send_progress`` must follow."""
    runpod.serverless.progress_update(dict(JOB), UPDATE)
    expected = requests.one()
    runpod_sdk.send_progress(JOB, UPDATE)
    assert requests.one() == expected
    assert expected[2] == {"status": "IN_PROGRESS", "output": UPDATE}
    assert "/job-1?" in expected[0]


def test_progress_has_arrived_when_sending_returns(requests: Requests) -> None:
    runpod_sdk.send_progress(JOB, UPDATE)
    assert len(requests.kept) == 1


def test_progress_that_nobody_receives_ends_no_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = "http://127.0.0.1:9/$ID?x=y"
    monkeypatch.setattr(rp_http, "JOB_DONE_URL", url)
    runpod_sdk.send_progress(JOB, UPDATE)


def test_progress_goes_to_the_clients_or_to_the_terminal() -> None:
    local = runpod_worker._progress_of(Settings())
    assert isinstance(local(JOB), BarProgress)
    on_platform = runpod_worker._progress_of(Settings(on_platform=True))
    assert isinstance(on_platform(JOB), ThrottledProgress)


def test_the_worker_has_what_the_settings_describe(no_models: Settings) -> None:
    worker = build(no_models)
    assert worker.settings is no_models
    storage = worker._runner.storage
    assert isinstance(storage, LocalStorage)
    assert storage.folder == no_models.output_dir


@pytest.mark.usefixtures("process")
def test_a_start_prepares_the_process(
    no_models: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ANIMATEDIFF_DTYP", "float32")
    settings = no_models.replace(sdk_log_level="WARN", concurrency=3)
    worker = build(settings)

    async def handler(_job: object) -> dict[str, Any]:
        return {}

    config = runpod_worker.start_config(lambda: worker, handler)
    assert config["handler"] is handler
    assert config["concurrency_modifier"](1) == 3
    assert not config["refresh_worker"]
    worker._runner.status.end_with(StorageError("the bucket refused the request"))
    assert config["refresh_worker"]
    assert RunPodLogger().level == "WARN"
    assert sys.getswitchinterval() == pytest.approx(1e-4)
    seen = events(capsys)
    assert seen["worker_ready"]["concurrency"] == 3
    assert seen["unknown_variables"]["level"] == "warning"
    variables = seen["unknown_variables"]["variables"]
    assert "ANIMATEDIFF_DTYP (did you mean ANIMATEDIFF_DTYPE?)" in variables


@pytest.mark.usefixtures("process")
def test_a_wrong_setting_ends_the_process_with_its_message() -> None:
    def broken() -> Worker:
        raise ConfigurationError("no such device")

    with pytest.raises(SystemExit, match="CONFIGURATION: no such device"):
        runpod_worker.serve(broken)


@pytest.mark.usefixtures("process")
def test_serving_builds_one_worker_and_hands_the_arguments_on(
    no_models: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Worker] = []
    started: list[tuple[dict[str, Any], list[str]]] = []

    def one_worker() -> Worker:
        built.append(build(no_models))
        return built[-1]

    def start(config: dict[str, Any]) -> None:
        started.append((config, runpod_sdk.sys.argv[1:]))

    monkeypatch.setattr(runpod_sdk.sys, "argv", ["animatediff", "serve"])
    monkeypatch.setattr(runpod.serverless, "start", start)
    runpod_worker.serve(one_worker, ["--rp_serve_api"])
    ((config, arguments),) = started
    assert arguments == ["--rp_serve_api"]
    handler: Callable[..., Any] = config["handler"]
    for _ in range(2):
        handler({"id": "a"}).close()
    assert len(built) == 1


@pytest.mark.usefixtures("process")
def test_libraries_log_warnings_only(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs()
    for name in ("httpx2", "urllib3", "botocore", "huggingface_hub"):
        logging.getLogger(f"{name}.part").info("GET https://example.org/?key=secret")
        logging.getLogger(f"{name}.part").warning("slow")
    written = capsys.readouterr().err
    events = [json.loads(line)["event"] for line in written.splitlines()]
    assert events.count("slow") == 4  # threads of earlier tests may write more
    assert "secret" not in written


def test_two_modules_import_the_sdk_its_worker_and_its_client() -> None:
    package = PROJECT_ROOT / "animatediff"
    importing = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"^\s*(import|from) runpod", path.read_text(), re.MULTILINE)
    ]
    assert sorted(importing) == ["serving/endpoint_client.py", "serving/runpod_sdk.py"]
