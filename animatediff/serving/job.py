"""One job from its JSON to its JSON. The place where every error becomes an answer."""

import json
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import catalog
from ..engine import Engine, Generated
from ..errors import AnimateDiffError, InternalError, InvalidRequest, JobCancelled
from ..provenance import metadata_of, weights_of
from ..request import GenerationRequest
from ..settings import Settings
from ..video.clip import EncodedVideo
from ..video.writers import write_video
from .progress import Report
from .storage import Storage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobRunner:
    """Everything a job meets on its way. ``parse`` and ``render`` are the wire's, see ``schemas/``."""

    engine: Engine
    storage: Storage
    settings: Settings
    parse: Callable[[Any], GenerationRequest]
    render: Callable[[Mapping[str, Any]], dict[str, Any]]

    def run(self, job: Mapping[str, Any], report: Report, cancelled: threading.Event) -> dict[str, Any]:
        """The job's output, or ``{"error": {"code", "message", "retryable", ...}}``. Raises nothing.

        A fatal error adds ``"refresh_worker": True``, by which RunPod replaces this worker.
        """
        try:
            return self._run(job, report, cancelled)
        except AnimateDiffError as error:
            log.warning("job %s failed: %s", job.get("id"), error, exc_info=error.__cause__)
            return _failed(error)
        except Exception as error:
            log.exception("job %s failed unexpectedly", job.get("id"))
            return _failed(InternalError(f"the worker failed unexpectedly ({type(error).__name__})"))

    def _run(self, job: Mapping[str, Any], report: Report, cancelled: threading.Event) -> dict[str, Any]:
        start = time.perf_counter()
        if "input" not in job:
            raise InvalidRequest("input", None, "an object with the job's fields")
        prepared = self.engine.prepare(self.parse(job["input"]))
        prepare_seconds = time.perf_counter() - start
        request = prepared.request

        def on_progress(step: int, total: int) -> None:
            if cancelled.is_set():
                raise JobCancelled(f"cancelled after step {step} of {total}", step=step)
            report(step, total)

        generated = self.engine.generate(prepared, on_progress)
        timings = {"prepare": round(prepare_seconds, 3), **generated.timings}
        with tempfile.TemporaryDirectory(prefix="animatediff-") as folder:
            path = Path(folder) / f"clip{catalog.OUTPUT_FORMATS[request.format].suffix}"
            began = time.perf_counter()
            encoded = write_video(
                generated.video,
                path,
                format=request.format,
                quality=self.settings.video_quality,
                metadata=metadata_of(generated),
            )
            timings["write"] = round(time.perf_counter() - began, 3)
            began = time.perf_counter()
            url = self.storage.put(encoded, str(job.get("id") or "local"))
            timings["store"] = round(time.perf_counter() - began, 3)
        timings["total"] = round(time.perf_counter() - start, 3)
        output = self.render(_output(url, encoded, generated, timings))
        if self.settings.result_file:
            self.settings.result_file.write_text(json.dumps(output, indent=2) + "\n", encoding="utf-8")
        return output


def _failed(error: AnimateDiffError) -> dict[str, Any]:
    answer: dict[str, Any] = {"error": error.to_dict()}
    if error.fatal:
        answer["refresh_worker"] = True
    return answer


def _output(url: str, encoded: EncodedVideo, generated: Generated, timings: dict[str, float]) -> dict[str, Any]:
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
        "warnings": list(generated.warnings),
    }
