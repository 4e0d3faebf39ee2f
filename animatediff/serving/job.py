"""One job from its JSON to its JSON, in three stages.

This is the place where every error becomes an answer.
"""

import hashlib
import json
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..atomic import written_whole
from ..deadline import Deadline, Stopwatch
from ..engine import Engine
from ..errors import (
    AnimateDiffError,
    DiskFull,
    EngineCorrupted,
    InternalError,
    InvalidRequest,
    JobCancelled,
    StorageError,
    shorten,
)
from ..job.clip import Clip, GenerationRequest
from ..job.fields import echo
from ..job.prepared import PreparedJob
from ..job.provenance import metadata_of, weights_of
from ..job.result import Generated
from ..progress import Progress, Report
from ..settings import Settings
from ..video import EncodedVideo
from .answer_size import Writing, check_inline_size, expected_bytes, write_fitting
from .job_bucket import storage_of
from .logs import log_event
from .room import SMALL_JOB, check_temporary_room, disk_full_behind
from .storage import CheckedStorage, Storage

Answer = dict[str, Any]
Parse = Callable[[Any], GenerationRequest]
"""Turns a job's input into a request. Raises InvalidRequest."""
Render = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Checks a job's output, and turns it into JSON values."""


_ASKED_BEFORE_EACH_JOB = (StorageError, DiskFull)
"""Errors whose causes are looked for before each job: if they pass, jobs go on."""


@dataclass
class WorkerStatus:
    """Counts of this worker's jobs since its start. All jobs share them.

    ``fatal`` is the error after which this worker must not take another job.
    ``stopped`` is set when no job may go on, because the process must end.
    """

    started: float = field(default_factory=time.monotonic)
    jobs: int = 0
    gpu_seconds: float = 0.0
    fatal: AnimateDiffError | None = None
    has_to_be_replaced: bool = False
    stopped: threading.Event = field(default_factory=threading.Event)

    def end_with(self, error: AnimateDiffError) -> None:
        """Let this worker be replaced, because of ``error``.

        Until then it refuses all jobs, or looks whether the cause is still there.
        """
        self.has_to_be_replaced = True
        if self.fatal is None and not isinstance(error, _ASKED_BEFORE_EACH_JOB):
            message = f"this worker has to be replaced: {error.message}"
            self.fatal = EngineCorrupted(message)

    def snapshot(self) -> dict[str, float]:
        """The status as numbers, for a job's output."""
        uptime = time.monotonic() - self.started
        busy = min(self.gpu_seconds / uptime, 1.0) if uptime > 0 else 0.0
        return {
            "jobs": self.jobs,
            "uptime_seconds": round(uptime, 3),
            "gpu_busy": round(busy, 4),
        }


@dataclass(frozen=True)
class JobRunner:
    """The parts that all jobs share. ``schemas/`` has ``parse`` and ``render``."""

    engine: Engine
    storage: Storage
    settings: Settings
    parse: Parse
    render: Render
    status: WorkerStatus = field(default_factory=WorkerStatus)

    def start(
        self, job: Mapping[str, Any], report: Report, cancelled: threading.Event
    ) -> "RunningJob":
        """Return ``job``, ready for its stages."""
        return RunningJob(self, job, report, cancelled)

    def run(
        self, job: Mapping[str, Any], report: Report, cancelled: threading.Event
    ) -> Answer:
        """Run all stages of ``job`` on this thread, and return its answer."""
        running = self.start(job, report, cancelled)
        for stage in (running.prepare, running.generate, running.finish):
            answer = stage()
            if answer is not None:
                return answer
        raise AssertionError("the last stage always answers")


class RunningJob:
    """One job between its start and its answer.

    Each stage returns None to go on, or the job's answer. No stage raises. An answer is
    the job's output, or ``{"error": {"code", "message", "retryable", ...}}``. A fatal
    error adds ``"refresh_worker": True``: RunPod then replaces this worker.
    """

    def __init__(
        self,
        runner: JobRunner,
        job: Mapping[str, Any],
        report: Report,
        cancelled: threading.Event,
    ) -> None:
        self._whole_id = str(job.get("id") or "local")
        self.id = str(shorten(self._whole_id, 100))  # as it is shown
        self._runner = runner
        self._job = job
        self._report = report
        self.deadline = Deadline(
            runner.settings.job_timeout_seconds,
            cancelled=cancelled,
            stopped=runner.status.stopped,
        )
        self._start = self._ready = time.perf_counter()
        self._watch = Stopwatch(self.deadline)
        self._timings = self._watch.seconds
        self._storage = runner.storage
        self._inline_limit = runner.settings.inline_limit
        self._prepared: PreparedJob | None = None
        self._generated: Generated | None = None

    def prepare(self) -> Answer | None:
        """Check the job, and find or download its files. For any thread."""
        return self._answered(self._prepare)

    def generate(self) -> Answer | None:
        """Generate the frames. For the one thread of the device."""
        return self._answered(self._generate)

    def finish(self) -> Answer | None:
        """Write and store the file, and return the output. For any thread."""
        return self._answered(self._finish)

    def late_answer(self) -> Answer:
        """The answer in the place of a stage that does not end though it must."""
        error = self.deadline.reason()
        assert error is not None  # noqa: S101 - the caller has seen it
        return self._failed(error)

    def _answered(self, stage: Callable[[], Answer | None]) -> Answer | None:
        try:
            if stage != self._finish:
                self._check_worker()
            self.deadline.check()
            return stage()
        except AnimateDiffError as error:
            return self._failed(disk_full_behind(error) or error)
        except Exception as error:  # noqa: BLE001 - every error is an answer
            if full := disk_full_behind(error):
                return self._failed(full)
            log_event("unexpected", level=logging.ERROR, cause=error, job=self.id)
            name = type(error).__name__
            return self._failed(
                InternalError(f"the worker failed unexpectedly ({name})")
            )

    def _failed(self, error: AnimateDiffError) -> Answer:
        self._log_failure(error)
        answer: Answer = {"error": error.to_dict()}
        if error.fatal:
            self._runner.status.end_with(error)
            answer["refresh_worker"] = True
        return answer

    def _log_failure(self, error: AnimateDiffError) -> None:
        if isinstance(error, JobCancelled):
            return  # the worker logs these
        log_event(
            "job_failed",
            job=self.id,
            level=logging.WARNING,
            cause=error.__cause__,
            error=loggable(error),
        )

    def _check_worker(self) -> None:
        if self._runner.status.fatal is not None:
            raise self._runner.status.fatal

    def _prepare(self) -> None:
        with self.deadline.phase("prepare"):
            request = self._with_seed(self._parsed())
            self._take_bucket()
            self._check_delivery(self._runner.engine.resolve(request))
            self._prepared = self._runner.engine.prepare(
                request, self._report, self.deadline
            )
        self._ready = time.perf_counter()
        self._timings["prepare"] = round(self._ready - self._start, 3)

    def _take_bucket(self) -> None:
        """Store the file in the job's own bucket, if it brings one."""
        storage = storage_of(self._job, self._runner.settings)
        if storage is not None:
            self._storage, self._inline_limit = storage, None

    def _check_delivery(self, clip: Clip) -> None:
        """Raise an error if the file could not be written, stored or answered."""
        if self._inline_limit is not None:
            check_inline_size(clip, self._inline_limit)
        size = expected_bytes(clip)
        self._runner.engine.assets.make_room(2 * size + SMALL_JOB)
        check_temporary_room(2 * size)  # a writer may keep a second copy for a moment
        if isinstance(self._storage, CheckedStorage):
            self._storage.check(size)

    def _parsed(self) -> GenerationRequest:
        if "input" not in self._job:
            raise InvalidRequest("input", None, "an object with the job's fields")
        request = self._runner.parse(self._job["input"])
        prompts = [request.prompt, request.negative_prompt]
        shown = prompts if self._runner.settings.log_prompts else None
        log_event("job_received", job=self.id, prompts=shown)
        return request

    def _with_seed(self, request: GenerationRequest) -> GenerationRequest:
        """Take the seed from the job's id, if a queue may deliver the job twice.

        Both deliveries then make the same file.
        """
        if request.seed is not None or not self._runner.settings.on_platform:
            return request
        return request.model_copy(update={"seed": seed_of(self._whole_id)})

    def _generate(self) -> None:
        assert self._prepared is not None  # noqa: S101 - the stages run in order
        self._timings["queue"] = round(time.perf_counter() - self._ready, 3)
        with self._on_device():
            self._generated = self._runner.engine.generate(
                self._prepared,
                self._report,
                self.deadline,
            )
        self._timings |= self._generated.timings

    @contextmanager
    def _on_device(self) -> Generator[None]:
        """Count the seconds inside as those of the device."""
        log_event("gpu_start", job=self.id)
        began = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - began
            self._runner.status.gpu_seconds += seconds
            self._timings["gpu"] = round(seconds, 3)
            log_event("gpu_end", job=self.id, seconds=round(seconds, 4))

    def _finish(self) -> Answer:
        assert self._generated is not None  # noqa: S101 - the stages run in order
        with tempfile.TemporaryDirectory(prefix="animatediff-") as folder:
            encoded, warnings = self._written(self._generated, Path(folder))
            self.deadline.check()
            url = self._stored(encoded)
        self._timings["total"] = round(time.perf_counter() - self._start, 3)
        status = self._runner.status
        status.jobs += 1
        output = self._runner.render(
            _output(
                url,
                encoded,
                self._generated,
                self._timings,
                warnings,
                status.snapshot(),
            )
        )
        self._keep(output)
        self._log_done(encoded)
        return output

    def _written(
        self, generated: Generated, folder: Path
    ) -> tuple[EncodedVideo, tuple[str, ...]]:
        settings = self._runner.settings
        metadata = metadata_of(generated, settings.file_metadata)
        writing = Writing(folder, settings.video_quality, metadata, self.deadline.check)
        self._report(Progress("write", 0, 1))
        with self._watch.phase("write"):
            written = write_fitting(generated, writing, self._inline_limit)
        self._report(Progress("write", 1, 1))
        return written

    def _stored(self, encoded: EncodedVideo) -> str:
        self._report(Progress("store", 0, 1))
        with self._watch.phase("store"):
            url = self._storage.put(encoded, self._whole_id, self.deadline.check)
        self._report(Progress("store", 1, 1))
        return url

    def _keep(self, output: Answer) -> None:
        path = self._runner.settings.result_file
        if path is not None:
            with written_whole(path, parents=False) as part:
                part.write_text(json.dumps(output, indent=2) + "\n", encoding="utf-8")

    def _log_done(self, encoded: EncodedVideo) -> None:
        log_event(
            "job_done",
            job=self.id,
            gpu_seconds=self._timings["gpu"],
            queue_seconds=self._timings["queue"],
            timings=self._timings,
            bytes=encoded.bytes,
        )


def loggable(error: AnimateDiffError) -> dict[str, Any]:
    """``error`` for the log, without the value of a wrong field: it may be a prompt."""
    if isinstance(error, InvalidRequest):
        return {
            "code": error.code,
            "field": error.details["field"],
            "allowed": error.details["allowed"],
        }
    return error.to_dict()


def seed_of(job_id: str) -> int:
    """The seed of a job that names none, from its id."""
    return int.from_bytes(hashlib.sha256(job_id.encode()).digest()[:8])


def _output(
    url: str,
    encoded: EncodedVideo,
    generated: Generated,
    timings: dict[str, float],
    warnings: tuple[str, ...],
    worker: dict[str, float],
) -> dict[str, Any]:
    return {
        **echo(generated.clip),
        "url": url,
        "format": encoded.format,
        "mime": encoded.mime,
        "bytes": encoded.bytes,
        "sha256": encoded.sha256,
        "num_frames": encoded.num_frames,
        "fps": encoded.fps,
        "width": encoded.width,
        "height": encoded.height,
        **weights_of(generated),
        "timings": timings,
        "worker": worker,
        "warnings": [*generated.warnings, *warnings],
    }
