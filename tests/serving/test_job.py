"""Jobs through the real engine, schemas and storage, with the embedded family."""

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
import torch

from animatediff import catalog
from animatediff.engine import Engine
from animatediff.errors import EngineCorrupted, StorageError
from animatediff.request import GenerationRequest
from animatediff.serving.job import JobRunner
from animatediff.serving.storage import LocalStorage
from animatediff.settings import Settings
from animatediff.video import EncodedVideo, read_metadata
from schemas import JobError, JobOutput, parse_job_input, render_job_output

SMALL = {"prompt": "a red circle", "num_frames": 4, "num_inference_steps": 2, "seed": 5}


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(Settings(max_megapixel_steps=100))


@pytest.fixture
def runner(engine: Engine, tmp_path: Path) -> JobRunner:
    return JobRunner(engine, LocalStorage(tmp_path), engine.settings, parse_job_input, render_job_output)


def run(runner: JobRunner, cancelled: threading.Event | None = None, **fields: Any) -> dict[str, Any]:
    job: Mapping[str, Any] = {"id": "job-1", "input": {**SMALL, **fields}}
    answer = runner.run(job, lambda _step, _total: None, cancelled or threading.Event())
    text = json.dumps(answer, allow_nan=False)
    assert "Traceback" not in text
    return answer


def test_output_says_what_ran(runner: JobRunner) -> None:
    output = JobOutput.model_validate(run(runner))
    path = Path(url2pathname(urlsplit(output.url).path))
    assert path.stat().st_size == output.bytes
    assert (output.num_frames, output.fps, output.width, output.height, output.seed) == (4, 8, 64, 64, 5)
    assert (output.model.name, output.motion_module.name) == ("shapeworld", "shapeworld_v3")
    assert output.timings.keys() == {
        "prepare",
        "load",
        "encode",
        "denoise",
        "decode",
        "hash",
        "write",
        "store",
        "total",
    }
    assert any("demonstration family" in warning for warning in output.warnings)


def test_output_is_enough_to_repeat_the_job(runner: JobRunner) -> None:
    first = run(runner, seed=None)
    fields = ("seed", "num_frames", "fps", "width", "height", "num_inference_steps", "guidance_scale", "scheduler")
    again = run(runner, **{name: first[name] for name in fields}, model=first["model"]["name"])
    assert again["sha256"] == first["sha256"]


@pytest.mark.parametrize("format", catalog.OUTPUT_FORMATS)
def test_every_format_carries_how_it_was_made(format: str, runner: JobRunner) -> None:
    output = run(runner, format=format, prompt='a red circle; a=b\n"q"')
    metadata = read_metadata(Path(url2pathname(urlsplit(output["url"]).path)), format)
    assert metadata["request"]["prompt"] == 'a red circle; a=b\n"q"'
    assert metadata["request"]["seed"] == output["seed"]
    assert metadata["model"] == output["model"]
    assert metadata["motion_module"] == output["motion_module"]
    assert output["mime"] == catalog.OUTPUT_FORMATS[format].mime


def test_model_is_loaded_once(runner: JobRunner, engine: Engine) -> None:
    run(runner)
    unet = engine.configure(engine.prepare(GenerationRequest("")).stack).unet
    assert run(runner, seed=6)["timings"]["load"] < 0.1
    assert engine.configure(engine.prepare(GenerationRequest("")).stack).unet is unet


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"promt": "x"}, "INVALID_REQUEST", "promt"),
        ({"num_frames": 0}, "INVALID_REQUEST", "num_frames"),
        ({"guidance_scale": float("nan")}, "INVALID_REQUEST", "guidance_scale"),
        ({"width": 10**5, "height": 10**4}, "INVALID_REQUEST", "width"),
        ({"width": 2048, "height": 2048, "num_frames": 32}, "INVALID_REQUEST", "megapixel steps"),
        ({"prompt": "x" * 100_000}, "INVALID_REQUEST", "prompt"),
        ({"width": 513}, "INVALID_REQUEST", "multiple of 8"),
        ({"clip_skip": 5}, "INVALID_REQUEST", "clip_skip"),
        ({"motion_module": "mm_sd_v15_v2"}, "INVALID_REQUEST", "motion_module"),
        ({"model": "sd15"}, "ASSET_UNAVAILABLE", "not installed"),
    ],
)
def test_bad_job_gets_its_own_error_and_the_next_one_works(
    fields: dict, code: str, said: str, runner: JobRunner
) -> None:
    answer = run(runner, **fields)
    error = JobError.model_validate(answer.pop("error"))
    assert answer == {}
    assert error.code == code
    assert said in error.message
    assert len(error.message) < 1000
    assert "url" in run(runner)


def test_job_without_input(runner: JobRunner) -> None:
    answer = runner.run({"id": "x"}, lambda _s, _t: None, threading.Event())
    assert answer["error"]["field"] == "input"


def test_cancelled_job_stops_at_the_next_step(runner: JobRunner) -> None:
    cancelled = threading.Event()
    seen = []

    def report(step: int, _total: int) -> None:
        seen.append(step)
        cancelled.set()

    answer = runner.run({"id": "j", "input": {**SMALL, "num_inference_steps": 20}}, report, cancelled)
    assert answer["error"]["code"] == "CANCELLED"
    assert seen == [1]
    assert "url" in run(runner)


def test_nan_names_the_step(runner: JobRunner, engine: Engine) -> None:
    unet = engine.configure(engine.prepare(GenerationRequest("")).stack).unet
    calls = []

    def spoil(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
        calls.append(1)
        return output * float("nan") if len(calls) == 2 else None

    handle = unet.conv_out.register_forward_hook(spoil)
    error = run(runner, num_inference_steps=4)["error"]
    handle.remove()
    assert (error["code"], error["step"]) == ("NON_FINITE_LATENTS", 1)


class FailingStorage:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def put(self, _encoded: EncodedVideo, _job_id: str) -> str:
        raise self.error


@pytest.mark.parametrize(
    ("error", "code", "refresh"),
    [
        (StorageError("no"), "STORAGE_FAILED", None),
        (EngineCorrupted("bad weights"), "ENGINE_CORRUPTED", True),
        (KeyError("/secret/path on host-7"), "INTERNAL", None),
        (torch.OutOfMemoryError("CUDA out of memory"), "INTERNAL", None),
    ],
)
def test_every_failure_is_an_answer(error: Exception, code: str, refresh: bool | None, engine: Engine) -> None:
    runner = JobRunner(engine, FailingStorage(error), engine.settings, parse_job_input, render_job_output)
    answer = run(runner)
    assert answer["error"]["code"] == code
    assert answer.get("refresh_worker") is refresh
    assert "secret" not in str(answer)
    assert "host-7" not in str(answer)


def test_no_room_on_the_device(runner: JobRunner, engine: Engine) -> None:
    unet = engine.configure(engine.prepare(GenerationRequest("")).stack).unet

    def no_room(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    handle = unet.conv_in.register_forward_pre_hook(no_room)
    error = run(runner)["error"]
    handle.remove()
    assert error["code"] == "OUT_OF_MEMORY"
    assert "4 frames of 64x64" in error["message"]
    assert "url" in run(runner)
