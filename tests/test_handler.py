"""handler.py under the real RunPod SDK: its local mode and its local API."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SMALL = {"prompt": "a red circle", "num_frames": 4, "num_inference_steps": 2, "seed": 5}


def environment(folder: Path, **more: str) -> dict[str, str]:
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("BUCKET_", "RUNPOD_", "ANIMATEDIFF_"))
    }
    return {**kept, "ANIMATEDIFF_OUTPUT_DIR": str(folder), **more}


def run_handler(
    *arguments: str, env: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "handler.py", *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.slow
def test_demo_prints_one_json_document_and_the_file(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.demo"],
        cwd=ROOT,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    *document, path = done.stdout.splitlines()
    output = json.loads("\n".join(document))
    assert Path(path).stat().st_size == output["bytes"]
    assert (
        output["timings"]["total"] > 0
    )  # how long it takes is printed, not asserted: that depends on the machine
    assert output["format"] == "mp4"


@pytest.mark.slow
def test_failed_job_ends_with_1(tmp_path: Path) -> None:
    done = run_handler(
        "--test_input",
        json.dumps({"input": {**SMALL, "width": 513}}),
        env=environment(tmp_path),
    )
    assert done.returncode == 1
    log = done.stdout + done.stderr
    assert "INVALID_REQUEST" in log
    assert "Traceback" not in log


@pytest.mark.slow
def test_half_a_bucket_stops_the_worker_at_start(tmp_path: Path) -> None:
    done = run_handler(
        "--test_input",
        json.dumps({"input": SMALL}),
        env=environment(tmp_path, BUCKET_NAME="clips", BUCKET_ACCESS_KEY_ID="A"),
    )
    assert done.returncode == 1
    assert (
        "CONFIGURATION: the bucket is configured only in part: BUCKET_SECRET_ACCESS_KEY"
        in done.stderr
    )
    assert not list(tmp_path.iterdir())


@dataclass(frozen=True)
class Api:
    """The SDK's local API in a process, and the file of all its output."""

    url: str
    log: Path

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    port, folder = free_port(), tmp_path_factory.mktemp("api")
    log = folder / "log"
    address = ["--rp_api_host", "127.0.0.1", "--rp_api_port", str(port)]
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-u", "handler.py", "--rp_serve_api", *address],
            cwd=ROOT,
            env=environment(folder),
            stdout=output,
            stderr=output,
        )
        try:
            wait_for(port, process, log)
            yield Api(f"http://127.0.0.1:{port}/runsync", log)
        finally:
            process.terminate()
            process.wait()


def post(api: Api, job_input: dict) -> dict:
    body = json.dumps({"input": job_input}).encode()
    request = urllib.request.Request(
        api.url, body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"steps": 5}, "steps"),
        ({"num_frames": 0}, "num_frames"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"width": 50_000, "height": 20_000}, "width"),
        ({"prompt": "x" * 100_000}, "prompt"),
        ({"width": 513}, "width"),
    ],
    ids=[
        "unknown field",
        "0 frames",
        "NaN guidance",
        "10^9 pixels",
        "long prompt",
        "width 513",
    ],
)
def test_bad_job_fails_clearly_and_the_next_one_completes(
    api: Api, change: dict, field: str
) -> None:
    answer = post(api, {**SMALL, **change})
    assert answer["status"] == "FAILED"
    error = json.loads(answer["error"])
    assert (error["code"], error["field"], error["retryable"]) == (
        "INVALID_REQUEST",
        field,
        False,
    )
    assert error["allowed"]
    assert "Traceback" not in answer["error"]
    after = post(api, SMALL)
    assert after["status"] == "COMPLETED"
    assert after["output"]["url"].startswith("file://")


@pytest.mark.slow
def test_no_prompt_and_no_answer_appears_in_any_output(api: Api) -> None:
    """Neither of a finished job, nor of a rejected one."""
    before = len(api.lines())
    canary = "seventeen violet herons"
    done = post(api, {**SMALL, "prompt": canary, "negative_prompt": canary})
    assert done["status"] == "COMPLETED"
    rejected = [
        {**SMALL, "prompt": canary * 1000},
        {**SMALL, "prompt": [canary]},
        {**SMALL, "prompt": canary, "negative_prompt": f"{canary} \udcff"},
        {**SMALL, "prompt": canary, "width": 513},
        {**SMALL, "prompt": canary, "vae": "none.safetensors"},
    ]
    for job_input in rejected:
        assert post(api, job_input)["status"] == "FAILED"
    lines = api.lines()[before:]
    events = [json.loads(line)["event"] for line in lines if line.startswith("{")]
    assert events.count("job_done") == 1
    assert events.count("job_failed") == len(rejected)
    text = "\n".join(lines)
    assert "herons" not in text
    assert done["output"]["sha256"] not in text


@pytest.mark.slow
def test_importing_the_handler_starts_nothing() -> None:
    code = "import handler; assert handler.worker.cache_info().currsize == 0"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode
        == 0
    )
