"""Jobs through the real engine, schemas and storage, with the embedded family."""

import base64
import errno
import hashlib
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops, ImageSequence

from animatediff.engine import Engine
from animatediff.errors import EncodeError, EngineCorrupted, StorageError
from animatediff.job.clip import GenerationRequest
from animatediff.progress import Progress, ignore
from animatediff.serving import room
from animatediff.serving.job import JobRunner
from animatediff.serving.logs import JsonLines
from animatediff.serving.storage import LocalStorage, make_storage
from animatediff.settings import Settings
from animatediff.video import OUTPUT_FORMATS, EncodedVideo, read_metadata
from schemas import JobError, JobOutput, parse_job_input, render_job_output

pytestmark = pytest.mark.slow

SMALL = {"prompt": "a red circle", "num_frames": 4, "num_inference_steps": 2, "seed": 5}


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(Settings(max_megapixel_steps=100))


@pytest.fixture
def runner(engine: Engine, tmp_path: Path) -> JobRunner:
    return JobRunner(
        engine,
        LocalStorage(tmp_path),
        engine.settings,
        parse_job_input,
        render_job_output,
    )


def run(
    runner: JobRunner, cancelled: threading.Event | None = None, **fields: Any
) -> dict[str, Any]:
    job: Mapping[str, Any] = {"id": "job-1", "input": {**SMALL, **fields}}
    answer = runner.run(job, ignore, cancelled or threading.Event())
    text = json.dumps(answer, allow_nan=False)
    assert "Traceback" not in text
    return answer


def path_of(output: Mapping[str, Any]) -> Path:
    return Path(url2pathname(urlsplit(output["url"]).path))


def test_output_says_what_ran(runner: JobRunner) -> None:
    answer = run(runner)
    output, path = JobOutput.model_validate(answer), path_of(answer)
    assert path.stat().st_size == output.bytes
    assert (
        output.num_frames,
        output.fps,
        output.width,
        output.height,
        output.seed,
    ) == (4, 8, 64, 64, 5)
    assert (output.model.name, output.motion_module.name) == (
        "shapeworld",
        "shapeworld_v3",
    )
    phases = {
        "prepare",
        "queue",
        "load",
        "encode",
        "denoise",
        "decode",
        "hash",
        "write",
        "store",
    }
    assert output.timings.keys() == {*phases, "gpu", "total"}
    assert any("demonstration family" in warning for warning in output.warnings)


def test_output_is_enough_to_repeat_the_job(runner: JobRunner) -> None:
    first = run(runner, seed=None)
    fields = (
        "seed",
        "num_frames",
        "fps",
        "width",
        "height",
        "num_inference_steps",
        "guidance_scale",
        "scheduler",
    )
    again = run(
        runner, **{name: first[name] for name in fields}, model=first["model"]["name"]
    )
    assert again["sha256"] == first["sha256"]


@pytest.mark.parametrize("format", OUTPUT_FORMATS)
def test_every_format_carries_how_it_was_made(format: str, runner: JobRunner) -> None:
    output = run(runner, format=format, prompt='a red circle; a=b\n"q"')
    metadata = read_metadata(path_of(output))
    assert metadata["request"]["prompt"] == 'a red circle; a=b\n"q"'
    assert metadata["request"]["seed"] == output["seed"]
    assert metadata["model"] == output["model"]
    assert metadata["motion_module"] == output["motion_module"]
    assert output["mime"] == OUTPUT_FORMATS[format].mime


def test_model_is_loaded_once(runner: JobRunner, engine: Engine) -> None:
    run(runner)
    unet = engine.configure(engine.prepare(GenerationRequest(prompt="")).stack).unet
    assert run(runner, seed=6)["timings"]["load"] < 0.1
    assert (
        engine.configure(engine.prepare(GenerationRequest(prompt="")).stack).unet
        is unet
    )


@pytest.mark.parametrize(
    ("fields", "code", "part"),
    [
        ({"promt": "x"}, "INVALID_REQUEST", "promt"),
        ({"num_frames": 0}, "INVALID_REQUEST", "num_frames"),
        ({"guidance_scale": float("nan")}, "INVALID_REQUEST", "guidance_scale"),
        ({"width": 10**5, "height": 10**4}, "INVALID_REQUEST", "width"),
        (
            {"width": 2048, "height": 2048, "num_frames": 32},
            "INVALID_REQUEST",
            "megapixel steps",
        ),
        ({"prompt": "x" * 100_000}, "INVALID_REQUEST", "prompt"),
        ({"width": 513}, "INVALID_REQUEST", "multiple of 8"),
        ({"clip_skip": 5}, "INVALID_REQUEST", "clip_skip"),
        ({"motion_module": "mm_sd_v15_v2"}, "INVALID_REQUEST", "motion_module"),
        ({"model": "sd15"}, "ASSET_UNAVAILABLE", "not installed"),
    ],
)
def test_bad_job_gets_its_own_error_and_the_next_one_works(
    fields: dict, code: str, part: str, runner: JobRunner
) -> None:
    answer = run(runner, **fields)
    error = JobError.model_validate(answer.pop("error"))
    assert answer == {}
    assert error.code == code
    assert part in error.message
    assert len(error.message) < 1000
    assert "url" in run(runner)


def test_progress_reports_every_phase_in_order(runner: JobRunner) -> None:
    reports: list[Progress] = []
    job = {"id": "job-1", "input": SMALL}
    assert "url" in runner.run(job, reports.append, threading.Event())
    phases = list(dict.fromkeys(report.phase for report in reports))
    order = ["download", "load", "encode", "denoise", "decode", "write", "store"]
    assert phases == [phase for phase in order if phase in phases]
    assert {"denoise", "write", "store"} <= set(phases)
    assert all(report.step <= report.total for report in reports if report.total)


def test_the_result_file_holds_the_output(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    runner = JobRunner(
        engine,
        LocalStorage(tmp_path / "clips"),
        engine.settings.replace(result_file=path),
        parse_job_input,
        render_job_output,
    )
    for seed in (1, 2):
        output = run(runner, seed=seed)
        assert json.loads(path.read_text()) == output
    assert {each.name for each in tmp_path.iterdir()} == {"clips", "result.json"}


def test_job_without_input(runner: JobRunner) -> None:
    answer = runner.run({"id": "x"}, ignore, threading.Event())
    assert answer["error"]["field"] == "input"


def test_cancelled_job_stops_at_the_next_step(runner: JobRunner) -> None:
    cancelled = threading.Event()
    seen = []

    def report(progress: Progress) -> None:
        if progress.phase == "denoise":
            seen.append(progress.step)
            cancelled.set()

    answer = runner.run(
        {"id": "j", "input": {**SMALL, "num_inference_steps": 20}}, report, cancelled
    )
    assert answer["error"]["code"] == "CANCELLED"
    assert seen == [1]
    assert "url" in run(runner)


def test_nan_names_the_step(runner: JobRunner, engine: Engine) -> None:
    unet = engine.configure(engine.prepare(GenerationRequest(prompt="")).stack).unet
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

    def put(self, encoded: EncodedVideo, job_id: str, check: object = None) -> str:
        del encoded, job_id, check
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
def test_every_failure_is_an_answer(
    error: Exception, code: str, refresh: bool | None, engine: Engine
) -> None:
    runner = JobRunner(
        engine,
        FailingStorage(error),
        engine.settings,
        parse_job_input,
        render_job_output,
    )
    answer = run(runner)
    assert answer["error"]["code"] == code
    assert answer.get("refresh_worker") is refresh
    assert "secret" not in str(answer)
    assert "host-7" not in str(answer)


class RefusingStorage:
    """Refuses before the work."""

    def __init__(self) -> None:
        self.error: StorageError | None = None

    def check(self, size: int) -> None:
        assert size > 0
        if self.error:
            raise self.error

    def put(self, encoded: EncodedVideo, job_id: str, check: object = None) -> str:
        del encoded, check
        return f"https://example.org/{job_id}"


def test_a_bucket_that_refuses_is_seen_before_the_work(engine: Engine) -> None:
    storage = RefusingStorage()
    runner = JobRunner(
        engine, storage, engine.settings, parse_job_input, render_job_output
    )
    storage.error = StorageError("no", retryable=False, fatal=True)
    answer = run(runner)
    assert (answer["error"]["code"], answer["error"]["retryable"]) == (
        "STORAGE_FAILED",
        False,
    )
    assert answer["refresh_worker"] is True
    assert runner.status.gpu_seconds == 0
    assert runner.status.has_to_be_replaced
    storage.error = None  # it was mended before the worker was replaced
    assert "url" in run(runner)


class SmallDisk:
    """A disk whose free bytes a test decides."""

    total = 10**12

    def __init__(self, free: int) -> None:
        self.free = free

    def __call__(self, _path: object) -> "SmallDisk":
        return self


@pytest.mark.parametrize(
    ("free", "fields", "refresh"),
    [
        (0, {}, True),
        (20_000_000, {"width": 512, "height": 512, "format": "png_zip"}, None),
    ],
    ids=["full", "too small for this clip"],
)
def test_a_full_disk_is_seen_before_the_work(
    free: int,
    fields: dict[str, Any],
    refresh: bool | None,
    runner: JobRunner,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = SmallDisk(free)
    monkeypatch.setattr(room.shutil, "disk_usage", disk)
    monkeypatch.setattr(room, "SMALL_JOB", 10_000_000)
    answer = run(runner, **{"num_frames": 32, **fields} if fields else {})
    assert (answer["error"]["code"], answer["error"]["retryable"]) == (
        "DISK_FULL",
        True,
    )
    assert answer.get("refresh_worker") is refresh
    assert runner.status.gpu_seconds == 0
    disk.free = 10**9
    assert "url" in run(runner)


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("ffmpeg: av_interleaved_write_frame(): No space left on device"),
    ],
    ids=["disk", "quota", "ffmpeg"],
)
def test_a_disk_that_fills_up_during_the_work(
    failure: Exception, engine: Engine
) -> None:
    for error in (failure, EncodeError("the file could not be written")):
        failing = JobRunner(
            engine,
            FailingStorage(error),
            engine.settings,
            parse_job_input,
            render_job_output,
        )
        if error is not failure:
            error.__cause__ = failure
        answer = run(failing)
        assert answer["error"]["code"] == "DISK_FULL"
        assert answer["error"]["retryable"]


@pytest.mark.parametrize(
    "failure",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        MemoryError(),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_no_room_on_the_device(
    failure: Exception, runner: JobRunner, engine: Engine
) -> None:
    unet = engine.configure(engine.prepare(GenerationRequest(prompt="")).stack).unet

    def no_room(*_: Any) -> None:
        raise failure

    handle = unet.conv_in.register_forward_pre_hook(no_room)
    error = run(runner)["error"]
    handle.remove()
    assert error["code"] == "OUT_OF_MEMORY"
    assert "4 frames of 64x64" in error["message"]
    assert "url" in run(runner)


def test_memory_that_runs_out_once_is_given_a_leaner_try(
    runner: JobRunner, engine: Engine
) -> None:
    usual = run(runner, format="apng")
    unet = engine.configure(engine.prepare(GenerationRequest(prompt="")).stack).unet
    batches: list[int] = []

    def no_room_for_two(_module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        batches.append(inputs[0].shape[0])
        if inputs[0].shape[0] > 4:  # frames of both prompts at once
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB"
            )

    handle = unet.conv_out.register_forward_pre_hook(no_room_for_two)
    lean = run(runner, format="apng")
    handle.remove()
    assert batches == [8, 4, 4, 4, 4]
    assert any("one by one" in warning for warning in lean["warnings"])
    assert not any("one by one" in warning for warning in usual["warnings"])
    with Image.open(path_of(lean)) as leaner, Image.open(path_of(usual)) as whole:
        for one, other in zip(
            ImageSequence.all_frames(leaner),
            ImageSequence.all_frames(whole),
            strict=True,
        ):
            difference = ImageChops.difference(one.convert("RGB"), other.convert("RGB"))
            # rounding depends on the size of a batch
            assert np.asarray(difference).max() <= 1
    # the next job has both prompts at once again
    assert run(runner, format="apng")["sha256"] == usual["sha256"]


@pytest.mark.parametrize(
    "failure",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `x`"),
    ],
    ids=["CUDA", "cuDNN", "cuBLAS"],
)
def test_a_device_error_ends_the_worker(
    failure: Exception, engine: Engine, runner: JobRunner
) -> None:
    unet = engine.configure(engine.prepare(GenerationRequest(prompt="")).stack).unet

    def broken(*_: Any) -> None:
        raise failure

    handle = unet.conv_in.register_forward_pre_hook(broken)
    answer = run(runner)
    handle.remove()
    assert answer["error"]["code"] == "DEVICE_FAILED"
    assert answer["error"]["retryable"]
    assert answer["refresh_worker"] is True
    for _ in range(
        2
    ):  # and every further job is refused, though the device might work again
        refused = run(runner)
        assert refused["error"]["code"] == "ENGINE_CORRUPTED"
        assert refused["refresh_worker"] is True


def test_a_job_that_takes_too_long(engine: Engine, tmp_path: Path) -> None:
    settings = engine.settings.replace(job_timeout_seconds=0.3)
    runner = JobRunner(
        engine, LocalStorage(tmp_path), settings, parse_job_input, render_job_output
    )
    error = run(runner, num_inference_steps=150)["error"]
    assert error["code"] == "TIMED_OUT"
    assert not error["retryable"]
    assert error["phase"] == "denoise"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", ["CANCELLED", "TIMED_OUT"])
def test_a_job_with_a_hung_encoder_ends(
    code: str, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = tmp_path / "ffmpeg"
    encoder.write_text(f"#!/bin/sh\necho $$ >'{tmp_path}/pid'\nexec sleep 60\n")
    encoder.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(encoder))
    run_of = JobRunner(
        engine,
        LocalStorage(tmp_path),
        engine.settings.replace(job_timeout_seconds=5 if code == "TIMED_OUT" else None),
        parse_job_input,
        render_job_output,
    )
    cancelled, pid = threading.Event(), tmp_path / "pid"

    def cancel_once_it_writes() -> None:
        while code == "CANCELLED" and not pid.exists():
            time.sleep(0.05)
        cancelled.set()

    watcher = threading.Thread(target=cancel_once_it_writes, daemon=True)
    if code == "CANCELLED":
        watcher.start()
    assert run(run_of, cancelled)["error"]["code"] == code
    assert not Path(f"/proc/{pid.read_text().strip()}").exists()


def test_a_job_that_waits_for_another_does_not_use_up_its_time(
    engine: Engine, tmp_path: Path
) -> None:
    settings = engine.settings.replace(job_timeout_seconds=1.0)
    runner = JobRunner(
        engine, LocalStorage(tmp_path), settings, parse_job_input, render_job_output
    )
    run(runner)
    running = runner.start({"id": "j", "input": SMALL}, ignore, threading.Event())
    assert running.prepare() is None
    time.sleep(1.2)
    assert running.generate() is None
    time.sleep(1.2)
    assert "url" in (running.finish() or {})


def on_platform(engine: Engine, limit: int) -> JobRunner:
    settings = engine.settings.replace(on_platform=True, max_inline_bytes=limit)
    return JobRunner(
        engine, make_storage(settings), settings, parse_job_input, render_job_output
    )


def test_without_a_bucket_the_answer_holds_the_file(engine: Engine) -> None:
    output = run(on_platform(engine, 100_000), format="gif")
    head, _, content = output["url"].partition(",")
    assert head == "data:image/gif;base64"
    assert hashlib.sha256(base64.b64decode(content)).hexdigest() == output["sha256"]


def test_a_file_too_large_to_be_answered_is_refused_before_the_work(
    engine: Engine,
) -> None:
    error = run(on_platform(engine, 20_000), format="png_zip")["error"]
    assert error["code"] == "INVALID_REQUEST"
    assert "no bucket is configured" in error["message"]


def test_a_file_that_turned_out_too_large_is_made_smaller(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(OUTPUT_FORMATS["png_zip"], bytes_per_pixel=0.01)
    monkeypatch.setitem(OUTPUT_FORMATS, "png_zip", small)
    output = run(on_platform(engine, 9_000), format="png_zip", num_frames=8)
    assert (output["format"], output["num_frames"]) == ("mp4", 8)
    assert any("instead of png_zip" in warning for warning in output["warnings"])
    error = run(on_platform(engine, 900), format="png_zip")["error"]
    assert error["code"] == "OUTPUT_TOO_LARGE"


def test_a_job_that_is_delivered_twice_is_the_same_job(engine: Engine) -> None:
    runner = on_platform(engine, 100_000)
    jobs = [{"id": name, "input": {**SMALL, "seed": None}} for name in ("a", "a", "b")]
    outputs = [runner.run(job, ignore, threading.Event()) for job in jobs]
    assert outputs[0]["url"] == outputs[1]["url"]
    assert outputs[0]["seed"] != outputs[2]["seed"]


def test_the_output_says_how_the_worker_is(engine: Engine, tmp_path: Path) -> None:
    runner = JobRunner(
        engine,
        LocalStorage(tmp_path),
        engine.settings,
        parse_job_input,
        render_job_output,
    )
    first, second = run(runner), run(runner, seed=6)
    assert (first["worker"]["jobs"], second["worker"]["jobs"]) == (1, 2)
    assert 0 < second["worker"]["gpu_busy"] <= 1


def test_prompts_are_logged_only_if_asked_for(
    engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for log_prompts in (False, True):
        settings = engine.settings.replace(log_prompts=log_prompts)
        runner = JobRunner(
            engine, LocalStorage(tmp_path), settings, parse_job_input, render_job_output
        )
        caplog.clear()
        with caplog.at_level("INFO"):
            run(runner, prompt="a red circle, my secret")
            run(runner, prompt="my secret" * 1000)
        lines = [JsonLines().format(record) for record in caplog.records]
        assert all(json.loads(line)["event"] for line in lines)
        assert any("my secret" in line for line in lines) == log_prompts
    events = [json.loads(line)["event"] for line in lines]
    assert events == ["job_received", "gpu_start", "gpu_end", "job_done", "job_failed"]


def test_previews_are_reported_and_change_nothing(runner: JobRunner) -> None:
    reports: list[Progress] = []
    asked = {**SMALL, "num_inference_steps": 4, "preview": {"every": 2}}
    job = {"id": "job-1", "input": asked}
    answer = runner.run(job, reports.append, threading.Event())
    shown = [each for each in reports if each.preview]
    assert [(each.phase, each.step) for each in shown] == [
        ("denoise", 2),
        ("denoise", 4),
    ]
    for each in shown:
        assert each.preview is not None
        assert each.preview.frames.shape == (4, 8, 8, 3)
        assert (each.preview.fps, each.preview.max_bytes) == (8, 30_000)
    plain = run(runner, num_inference_steps=4, file_metadata="none")
    again = run(
        runner, num_inference_steps=4, file_metadata="none", preview={"every": 1}
    )
    assert again["sha256"] == plain["sha256"]
    assert answer["warnings"] == plain["warnings"]


def test_a_preview_that_never_comes_is_a_warning(runner: JobRunner) -> None:
    warnings = run(runner, preview={"every": 9})["warnings"]
    assert any("preview.every is 9" in warning for warning in warnings)


@pytest.mark.parametrize(
    ("preview", "field"),
    [
        ({"every": 0}, "preview.every"),
        ({"max_bytes": 10}, "preview.max_bytes"),
        ({"max_bytes": 10**9}, "preview.max_bytes"),
        ({"size": 3}, "preview.size"),
        (5, "preview"),
        (True, "preview"),
    ],
)
def test_a_wrong_preview_is_named(
    preview: object, field: str, runner: JobRunner
) -> None:
    error = run(runner, preview=preview)["error"]
    assert (error["code"], error["field"]) == ("INVALID_REQUEST", field)
