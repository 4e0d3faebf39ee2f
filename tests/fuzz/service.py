"""A worker with the embedded family, and the rules that each of its answers obeys."""

import asyncio
import json
import logging
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import settings

from animatediff import errors
from animatediff.engine import Engine
from animatediff.errors import AnimateDiffError
from animatediff.progress import Progress
from animatediff.serving.job import JobRunner
from animatediff.serving.logs import JsonLines
from animatediff.serving.storage import LocalStorage
from animatediff.serving.worker import Worker
from animatediff.settings import Settings
from schemas import JobError, JobInput, JobOutput, parse_job_input, render_job_output
from tests.fuzz.weight_files import write_control

TALLY: defaultdict[str, Counter[str]] = defaultdict(Counter)
"""How often each error code, or "output", was the answer, by group of cases."""
SMALLEST = {
    "prompt": "a red circle",
    "num_frames": 1,
    "width": 64,
    "height": 64,
    "num_inference_steps": 1,
    "seed": 5,
}
SMALLEST_WORK = 0.009
"""Megapixel steps of two frames of 64x64; larger jobs are refused to save time."""
ROUND = 40
"""The number of cases after which the frames are compared with a fresh engine's."""
LONGEST_ANSWER = 50_000
"""Characters. An answer's length depends neither on a job's names nor on its errors."""
_EXPECTED = {
    cls.code
    for cls in vars(errors).values()
    if isinstance(cls, type) and issubclass(cls, AnimateDiffError) and not cls.fatal
} - {"INTERNAL", "ANIMATEDIFF_ERROR", "CONFIGURATION"}


def share(part: float) -> settings:
    """Return settings that give a test this part of all cases."""
    assert settings.default is not None
    return settings(max_examples=max(1, round(settings.default.max_examples * part)))


class Service:
    """A warm worker, and engines that only prepare jobs, of any size.

    None of them ever contacts a host.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.models = folder, folder / "models"
        for name in ("models", "inputs"):
            (folder / name).mkdir()
        (self.models / "shapeworld").symlink_to(Settings().models_dir / "shapeworld")
        write_control(self.models / "rgb.safetensors")
        self._runner = self._make_runner(
            max_megapixel_steps=SMALLEST_WORK, offline=True
        )
        self._preparing = [
            self._make_runner(offline=True),
            self._make_runner(download_hosts=()),
        ]
        self._worker = Worker(self._runner, lambda _job: _Silent())
        self._sent = 0
        self._fresh = self._frames(Engine(self._runner.settings))

    def _make_runner(self, **changes: Any) -> JobRunner:
        folders = {
            "models_dir": self.models,
            "input_dir": self.folder / "inputs",
            "cache_dir": self.folder / "cache",
        }
        settings = Settings(**folders, **changes)
        storage = LocalStorage(self.folder / "out")
        return JobRunner(
            Engine(settings), storage, settings, parse_job_input, render_job_output
        )

    def send(self, group: str, job: Mapping[str, Any]) -> dict[str, Any]:
        """Return the output or the error of a job that passed all stages."""
        answer = asyncio.run(self._worker(job))
        assert self._runner.status.fatal is None
        checked = self._check(group, job, answer)
        self._sent += 1
        if self._sent % ROUND == 0:
            self.check_frames()
        return checked

    def prepare(
        self, group: str, job: Mapping[str, Any], way: int = 0
    ) -> dict[str, Any]:
        """Return the error of a job's first stage, or {} if there is none.

        ``way`` is 0 for an offline engine and 1 for one that allows no host.
        """
        answer = self._preparing[way].start(job, _Silent(), threading.Event()).prepare()
        if answer is None:
            TALLY[group]["prepared"] += 1
            return {}
        return self._check(group, job, {"error": json.dumps(answer["error"])})

    def check_frames(self) -> None:
        """Check that the earlier cases have not changed a normal job's frames."""
        assert self._frames(self._runner.engine) == self._fresh

    def _frames(self, engine: Engine) -> bytes:
        return engine.generate(
            engine.prepare(parse_job_input(SMALLEST))
        ).video.frames.tobytes()

    def _check(
        self, group: str, job: Mapping[str, Any], answer: dict[str, Any]
    ) -> dict[str, Any]:
        text = json.dumps(
            answer, allow_nan=False, ensure_ascii=False
        )  # as the SDK sends it
        text.encode()
        assert "Traceback" not in text
        assert len(text) < LONGEST_ANSWER
        if "error" not in answer:
            JobOutput.model_validate(answer)
            TALLY[group]["output"] += 1
            return answer
        assert answer.keys() == {"error"}
        error = json.loads(answer["error"])
        # Strict parsers reject lone surrogates, so there must be none.
        json.dumps(error, ensure_ascii=False).encode()
        assert JobError.model_validate(error).code in _EXPECTED, error
        assert str(self.folder) not in text
        if error["code"] == "INVALID_REQUEST":
            for field in wrong_fields(error):
                assert _is_field(field, job), error
        TALLY[group][error["code"]] += 1
        return error

    @contextmanager
    def log_checked(self) -> Iterator[None]:
        """Check on exit that every log record in this block was a line of JSON."""
        handler = _LogCheck()
        logging.getLogger("animatediff").addHandler(handler)
        yield
        logging.getLogger("animatediff").removeHandler(handler)
        assert handler.lines
        assert not handler.broken


def wrong_fields(error: Mapping[str, Any]) -> list[str]:
    """Return every field that an INVALID_REQUEST names."""
    named = [
        error["field"],
        *(problem["field"] for problem in error.get("problems", ())),
    ]
    several = {fields: fields.split(", ") for fields in named}
    return [
        field
        for members in several.values()
        for field in (
            members if members[-1] in JobInput.model_fields else [", ".join(members)]
        )
    ]


def _is_field(field: str, job: Mapping[str, Any]) -> bool:
    """Whether ``field`` is in the schema or is an unknown key of this job."""
    top, raw = field.partition(".")[0], job.get("input")
    unknown = isinstance(raw, Mapping) and any(
        field.startswith(key[:50]) for key in raw if key not in JobInput.model_fields
    )
    return unknown or top in JobInput.model_fields or field == "input"


class _Silent:
    def __init__(self) -> None:
        self.steps = 0

    def __call__(self, _progress: Progress, /) -> None:
        self.steps += 1

    def close(self) -> None: ...


class _LogCheck(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines = 0
        self.broken: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = JsonLines().format(record)
            json.loads(line.encode())
            self.lines += 1
        except Exception as error:  # noqa: BLE001 -- any failure loses the line
            self.broken.append(repr(error))
