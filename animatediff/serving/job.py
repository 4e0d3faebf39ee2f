"""One job from its JSON to its JSON, in three stages. The place where every error
becomes an answer.
"""

import hashlib
import json
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..engine import Engine, Generated, PreparedJob
from ..errors import (
    AnimateDiffError,
    EngineCorrupted,
    InternalError,
    InvalidRequest,
    JobCancelled,
    JobTimedOut,
    OutputTooLarge,
)
from ..job.request import GenerationRequest, ResolvedRequest
from ..provenance import metadata_of, weights_of
from ..settings import Settings
from ..video import OUTPUT_FORMATS, EncodedVideo, write_video
from .logs import log_event
from .progress import Report
from .storage import Storage

log = logging.getLogger(__name__)

Answer = dict[str, Any]
SMALLER_QUALITIES = (60, 30, 10)
"""Of an mp4 that takes the place of a file too large to be answered."""


@dataclass
class WorkerStatus:
    """What this worker has done since it started; shared by its jobs."""

    started: float = field(default_factory=time.monotonic)
    jobs: int = 0
    gpu_seconds: float = 0.0
    fatal: AnimateDiffError | None = None
    """Set once, by the error after which this worker must not take a job."""

    def snapshot(self) -> dict[str, float]:
        """The same as numbers, for a job's output."""
        uptime = time.monotonic() - self.started
        return {
            "jobs": self.jobs,
            "uptime_seconds": round(uptime, 3),
            "gpu_busy": round(min(self.gpu_seconds / uptime, 1.0), 4)
            if uptime > 0
            else 0.0,
        }


@dataclass(frozen=True)
class JobRunner:
    """Everything a job meets on its way. ``parse`` and ``render`` are the wire's, see
    ``schemas/``.
    """

    engine: Engine
    storage: Storage
    settings: Settings
    parse: Callable[[Any], GenerationRequest]
    render: Callable[[Mapping[str, Any]], dict[str, Any]]
    status: WorkerStatus = field(default_factory=WorkerStatus)

    def start(
        self, job: Mapping[str, Any], report: Report, cancelled: threading.Event
    ) -> "RunningJob":
        """``job``, ready for its stages."""
        return RunningJob(self, job, report, cancelled)

    def run(
        self, job: Mapping[str, Any], report: Report, cancelled: threading.Event
    ) -> Answer:
        """All stages of ``job`` on this thread. Raises nothing."""
        running = self.start(job, report, cancelled)
        for stage in (running.prepare, running.generate, running.finish):
            if (answer := stage()) is not None:
                return answer
        raise AssertionError("the last stage always answers")


class RunningJob:
    """One job on its way. Each stage returns None to go on, or the job's answer; none
    of them raises.

    An answer is the job's output, or ``{"error": {"code", "message", "retryable",
    ...}}``. A fatal error adds ``"refresh_worker": True``, by which RunPod replaces
    this worker.
    """

    def __init__(
        self,
        runner: JobRunner,
        job: Mapping[str, Any],
        report: Report,
        cancelled: threading.Event,
    ) -> None:
        self.id = str(job.get("id") or "local")
        self._runner, self._job, self._report, self._cancelled = (
            runner,
            job,
            report,
            cancelled,
        )
        self._start = self._ready = time.perf_counter()
        self._timings: dict[str, float] = {}
        self._prepared: PreparedJob | None = None
        self._generated: Generated | None = None

    def prepare(self) -> Answer | None:
        """Check the job, find or fetch what it names. For any thread."""
        return self._stage(self._prepare)

    def generate(self) -> Answer | None:
        """Make the frames. For the one thread of the device."""
        return self._stage(self._generate)

    def finish(self) -> Answer | None:
        """Write the file, store it, and say where. For any thread."""
        return self._stage(self._finish)

    def _stage(self, run: Callable[[], Answer | None]) -> Answer | None:
        try:
            if self._runner.status.fatal is not None and run != self._finish:
                raise self._runner.status.fatal
            self._check()
            return run()
        except AnimateDiffError as error:
            return self._failed(error)
        except Exception as error:
            log.exception("unexpected", extra={"fields": {"job": self.id}})
            return self._failed(
                InternalError(
                    f"the worker failed unexpectedly ({type(error).__name__})"
                )
            )

    def _failed(self, error: AnimateDiffError) -> Answer:
        if not isinstance(error, JobCancelled):  # the worker tells of these
            log_event(
                "job_failed",
                job=self.id,
                level=logging.WARNING,
                cause=error.__cause__,
                error=loggable(error),
            )
        answer: Answer = {"error": error.to_dict()}
        if error.fatal:
            if self._runner.status.fatal is None:
                self._runner.status.fatal = EngineCorrupted(
                    f"this worker has to be replaced: {error.message}"
                )
            answer["refresh_worker"] = True
        return answer

    def _check(self) -> None:
        """Raises JobCancelled or JobTimedOut where the job is to end."""
        if self._cancelled.is_set():
            raise JobCancelled("the job was cancelled")
        limit = self._runner.settings.job_timeout_seconds
        if limit is not None and time.perf_counter() - self._start > limit:
            raise JobTimedOut(
                f"the job took longer than the {limit:g} s that are allowed here",
                limit=limit,
            )

    def _prepare(self) -> None:
        runner, settings = self._runner, self._runner.settings
        if "input" not in self._job:
            raise InvalidRequest("input", None, "an object with the job's fields")
        request = runner.parse(self._job["input"])
        prompts = (
            [request.prompt, request.negative_prompt] if settings.log_prompts else None
        )
        log_event("job_received", job=self.id, prompts=prompts)
        if (
            request.seed is None and settings.on_platform
        ):  # a job that is delivered twice makes the same file twice
            request = replace(request, seed=seed_of(self.id))
        self._prepared = runner.engine.prepare(request)
        if settings.inline_limit is not None:
            check_inline_size(self._prepared.request, settings.inline_limit)
        self._ready = time.perf_counter()
        self._timings["prepare"] = round(self._ready - self._start, 3)

    def _generate(self) -> None:
        assert self._prepared is not None
        runner, began = self._runner, time.perf_counter()
        self._timings["queue"] = round(began - self._ready, 3)
        log_event("gpu_start", job=self.id)
        try:
            self._generated = runner.engine.generate(
                self._prepared, self._report, self._check
            )
        finally:
            seconds = time.perf_counter() - began
            runner.status.gpu_seconds += seconds
            self._timings["gpu"] = round(seconds, 3)
            log_event("gpu_end", job=self.id, seconds=round(seconds, 4))
        self._timings |= self._generated.timings

    def _finish(self) -> Answer:
        assert self._generated is not None
        runner, timings = self._runner, self._timings
        with tempfile.TemporaryDirectory(prefix="animatediff-") as folder:
            began = time.perf_counter()
            encoded, said = self._write(self._generated, Path(folder))
            timings["write"] = round(time.perf_counter() - began, 3)
            self._check()
            began = time.perf_counter()
            url = runner.storage.put(encoded, self.id, self._check)
            timings["store"] = round(time.perf_counter() - began, 3)
        timings["total"] = round(time.perf_counter() - self._start, 3)
        runner.status.jobs += 1
        output = runner.render(
            _output(
                url, encoded, self._generated, timings, said, runner.status.snapshot()
            )
        )
        if runner.settings.result_file:
            runner.settings.result_file.write_text(
                json.dumps(output, indent=2) + "\n", encoding="utf-8"
            )
        log_event(
            "job_done",
            job=self.id,
            gpu_seconds=timings["gpu"],
            queue_seconds=timings["queue"],
            timings=timings,
            bytes=encoded.bytes,
        )
        return output

    def _write(
        self, generated: Generated, folder: Path
    ) -> tuple[EncodedVideo, tuple[str, ...]]:
        """The file; where it is larger than an answer may be, an mp4 of lower quality,
        and a warning.
        """
        request, settings = generated.request, self._runner.settings
        limit = settings.inline_limit
        attempts = [
            (request.format, settings.video_quality),
            *(("mp4", quality) for quality in SMALLER_QUALITIES),
        ]
        sizes = []
        for format, quality in attempts:
            path = folder / f"clip-{quality}{OUTPUT_FORMATS[format].suffix}"
            encoded = write_video(
                generated.video,
                path,
                format=format,
                quality=quality,
                metadata=metadata_of(generated),
            )
            if limit is None or encoded.bytes <= limit:
                instead = f"too many bytes for an answer: an mp4 of quality {quality} instead of {request.format}"
                return encoded, (f"{sizes[0]} are {instead}",) if sizes else ()
            sizes.append(encoded.bytes)
        raise OutputTooLarge(
            f"the smallest file that could be made has {min(sizes)} bytes, an answer"
            f" at most {limit}: configure a"
            " bucket",
            bytes=min(sizes),
            limit=limit,
        )


def loggable(error: AnimateDiffError) -> dict[str, Any]:
    """``error`` for the log: of a wrong field only its name and what it may hold, as
    what came may be a prompt.
    """
    if isinstance(error, InvalidRequest):
        return {
            "code": error.code,
            "field": error.details["field"],
            "allowed": error.details["allowed"],
        }
    return error.to_dict()


def seed_of(job_id: str) -> int:
    """The seed of a job that names none."""
    return int.from_bytes(hashlib.sha256(job_id.encode()).digest()[:8])


def check_inline_size(request: ResolvedRequest, limit: int) -> None:
    """Raises InvalidRequest for a job whose file would likely be larger than an answer
    may be, before any work.
    """
    pixels = request.num_frames * request.width * request.height
    size = int(pixels * OUTPUT_FORMATS[request.format].bytes_per_pixel)
    if size > limit:
        raise InvalidRequest(
            "num_frames, width, height, format",
            f"{request.num_frames} frames of {request.width}x{request.height} as"
            f" {request.format}, about {size} bytes",
            f"about {limit} bytes, as no bucket is configured here (BUCKET_NAME):"
            f" smaller, or as mp4",
        )


def _output(
    url: str,
    encoded: EncodedVideo,
    generated: Generated,
    timings: dict[str, float],
    said: tuple[str, ...],
    worker: dict[str, float],
) -> dict[str, Any]:
    request = generated.request
    return {
        "url": url,
        "format": encoded.format,
        "mime": encoded.mime,
        "bytes": encoded.bytes,
        "sha256": encoded.sha256,
        "seed": request.seed,
        "num_frames": encoded.num_frames,
        "fps": encoded.fps,
        "width": encoded.width,
        "height": encoded.height,
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "scheduler": request.scheduler,
        "clip_skip": request.clip_skip,
        **weights_of(generated),
        "timings": timings,
        "worker": worker,
        "warnings": [*generated.warnings, *said],
    }
