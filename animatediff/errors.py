"""Every error that can leave this package, as one tree.

    AnimateDiffError
    ├── InvalidRequest        a field of the job is not allowed; nothing ran
    ├── ConfigurationError    a setting of the service is wrong; raised at start
    ├── AssetError            a weight file or picture is missing, or not available
    ├── CheckpointError       a file does not have the expected content
    ├── GenerationError       the model ran and failed
    │   ├── NonFiniteLatents  NaN or infinity, with the step where it began
    │   ├── OutOfMemory       the device has too little memory for the job
    │   ├── JobCancelled      the job was cancelled
    │   └── JobTimedOut       the job's own work took longer than the service allows
    ├── WorkerStopped         the worker is being stopped before the job's end
    ├── EncodeError           the frames could not be written in the job's format
    ├── StorageError          the finished file could not be stored
    ├── DiskFull              the worker's disk has no room for a file
    ├── OutputTooLarge        the file is too large for an answer; there is no bucket
    ├── EngineCorrupted       the loaded weights may be wrong; replace the worker
    ├── DeviceFailed          the GPU reported an error; replace the worker
    └── InternalError         a bug in this package

Clients branch on ``code``, which never changes. ``retryable`` errors may disappear if
the same job is sent again later. After a ``fatal`` error the worker asks to be
replaced.
"""

import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from .shown import without_secrets


class AnimateDiffError(Exception):
    """Root of the tree.

    ``details`` are facts for clients, as JSON values.
    """

    code: ClassVar[str] = "ANIMATEDIFF_ERROR"
    retryable: bool = False
    fatal: bool = False

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def to_dict(self) -> dict[str, Any]:
        """The error as a client receives it.

        ``code``, ``message``, ``retryable``, and the details.
        """
        return {
            "code": self.code,
            "message": self.message,
            "retryable": self.retryable,
            **self.details,
        }


class InvalidRequest(AnimateDiffError):
    """A field of the job is not allowed.

    ``field`` is the path of the field, ``got`` its value, ``allowed`` describes the
    allowed values. ``problems`` lists further fields of the same job as triples (field,
    got, allowed), so that a client can correct all of them at once. With
    ``is_sentence``, ``allowed`` says all that the message has to say.
    """

    code = "INVALID_REQUEST"

    def __init__(
        self,
        field: str,
        got: Any,
        allowed: str,
        problems: list[tuple[str, Any, str]] | None = None,
        *,
        is_sentence: bool = False,
    ) -> None:
        got = shorten(got)
        words = allowed if is_sentence else f"got {got}, allowed: {allowed}"
        super().__init__(
            f"{field}: {words}",
            field=field,
            got=got,
            allowed=allowed,
        )
        if problems:
            self.details["problems"] = [
                {"field": f, "got": shorten(g), "allowed": a} for f, g, a in problems
            ]


class ConfigurationError(AnimateDiffError):
    """A setting of the service is missing or wrong.

    Raised at start, before any job is taken.
    """

    code = "CONFIGURATION"


class AssetError(AnimateDiffError):
    """A file of the job is missing, or could not be downloaded."""

    code = "ASSET_UNAVAILABLE"

    def __init__(
        self, message: str, *, retryable: bool = False, **details: Any
    ) -> None:
        super().__init__(message, **details)
        self.retryable = retryable


class CheckpointError(AnimateDiffError):
    """A weight file is damaged, of another kind, or does not fit the model.

    The model is unchanged.
    """

    code = "CHECKPOINT_MISMATCH"


class GenerationError(AnimateDiffError):
    """The model ran and failed."""

    code = "GENERATION_FAILED"


class NonFiniteLatents(GenerationError):
    """NaN or infinity appeared.

    ``step`` is the denoising step, counted from 0; None means in the VAE, after all
    steps.
    """

    code = "NON_FINITE_LATENTS"

    def __init__(self, step: int | None, where: str) -> None:
        when = "" if step is None else f" at denoising step {step}"
        super().__init__(
            f"NaN or infinity in the {where}{when}", step=step, where=where
        )


class OutOfMemory(GenerationError):
    """The device has too little memory for the job.

    Smaller or fewer frames need less.
    """

    code = "OUT_OF_MEMORY"


class JobCancelled(GenerationError):
    """The job was cancelled."""

    code = "CANCELLED"


class JobTimedOut(GenerationError):
    """The job's own work took longer than the service allows.

    Time in which it waited for other jobs does not count. ``retryable`` if it was spent
    on a transfer, which another host slowed down.
    """

    code = "TIMED_OUT"

    def __init__(
        self, message: str, *, retryable: bool = False, **details: Any
    ) -> None:
        super().__init__(message, **details)
        self.retryable = retryable


class WorkerStopped(AnimateDiffError):
    """The worker is being stopped, and the job did not end in time before it."""

    code = "WORKER_STOPPED"
    retryable = True


class OutputTooLarge(AnimateDiffError):
    """The file is too large for an answer, and no bucket is configured."""

    code = "OUTPUT_TOO_LARGE"


class EncodeError(AnimateDiffError):
    """The frames could not be written in the job's format."""

    code = "ENCODE_FAILED"


class StorageError(AnimateDiffError):
    """The file cannot be stored; seen before the work, or after it.

    It is retryable if the cause may pass, and fatal if this worker can store no file.
    """

    code = "STORAGE_FAILED"

    def __init__(
        self,
        message: str,
        *,
        retryable: bool = True,
        fatal: bool = False,
        **details: Any,
    ) -> None:
        super().__init__(message, **details)
        self.retryable = retryable
        self.fatal = fatal


class DiskFull(AnimateDiffError):
    """The worker's disk has no room for a file of the job.

    It is fatal if there is no room for a small job either.
    """

    code = "DISK_FULL"
    retryable = True

    def __init__(self, message: str, *, fatal: bool = False, **details: Any) -> None:
        super().__init__(message, **details)
        self.fatal = fatal


class EngineCorrupted(AnimateDiffError):
    """Changed weights could not be restored.

    Every later result of this process may be wrong.
    """

    code = "ENGINE_CORRUPTED"
    retryable = True
    fatal = True


class DeviceFailed(AnimateDiffError):
    """The device reported an error.

    Every later result of the device may be wrong.
    """

    code = "DEVICE_FAILED"
    retryable = True
    fatal = True


class InternalError(AnimateDiffError):
    """Any other error: a bug in this package.

    The cause is in the worker's log, not in the answer.
    """

    code = "INTERNAL"


Retryability = Literal["yes", "no", "see the error"]


@dataclass(frozen=True)
class Advice:
    """A code in words for clients: its meaning, and what to do about it.

    ``details`` describes the fields that the error may have besides its first three.
    """

    meaning: str
    remedy: str
    details: str = ""


ADVICE: Mapping[type[AnimateDiffError], Advice] = {
    InvalidRequest: Advice(
        "a field of the job is wrong; nothing ran",
        "correct `field`, and send a new job",
        "`field`, `got`, `allowed`; `problems` lists up to 20 further wrong fields",
    ),
    AssetError: Advice(
        "a file is not there, or could not be fetched",
        "install the file or correct its reference; send the job again after a timeout"
        " or a server's error",
        "`asset` or `file`: its name",
    ),
    CheckpointError: Advice(
        "a file is damaged, of another kind, or made for another model",
        "choose another file; the message names what this file is",
    ),
    GenerationError: Advice(
        "the model ran and could not finish", "read the message, and change the job"
    ),
    NonFiniteLatents: Advice(
        "NaN or infinity appeared",
        "try another seed, a lower strength, or another VAE",
        "`step` counts from 0, null is the VAE; `where`",
    ),
    OutOfMemory: Advice(
        "the device has no room for the job, even in the lean way",
        "ask for fewer frames or a smaller size",
        "`num_frames`, `width`, `height`",
    ),
    JobCancelled: Advice("the job was cancelled", "nothing"),
    JobTimedOut: Advice(
        "the job's own work took longer than `ANIMATEDIFF_JOB_TIMEOUT_SECONDS`",
        "ask for less, or raise the limit; send it again if a download or the upload"
        " was slow",
        "`phase` took the most time; `limit` in seconds",
    ),
    WorkerStopped: Advice(
        "the worker was stopped before the job's end", "send the job again"
    ),
    EncodeError: Advice(
        "the frames could not be written in this format", "choose another `format`"
    ),
    StorageError: Advice(
        "the file cannot be stored: seen before the work, or after it",
        "send the job again, or mend the bucket, its policy or its keys",
        "`reason` is the bucket's own code; `region`",
    ),
    DiskFull: Advice(
        "the worker's disk has no room for a download or for the clip",
        "send the job again, or ask for a smaller clip",
    ),
    OutputTooLarge: Advice(
        "the file is too large for an answer, and there is no bucket",
        "configure a bucket, or ask for a smaller clip",
        "`bytes`, `limit`",
    ),
    EngineCorrupted: Advice(
        "the weights could not be restored; RunPod replaces the worker",
        "send the job again",
    ),
    DeviceFailed: Advice(
        "the GPU reported an error; RunPod replaces the worker", "send the job again"
    ),
    InternalError: Advice(
        "a bug; the worker's log has the cause", "report it, with the job's id"
    ),
    ConfigurationError: Advice(
        "the service is set up wrongly",
        "read the worker's log: it prints this at its start, and takes no job",
        "`setting`",
    ),
}
"""Advice on every error that a client can receive."""


def retryability(kind: type[AnimateDiffError]) -> Retryability:
    """Whether a job that failed with this error may succeed if it is sent again."""
    if "retryable" in inspect.signature(kind.__init__).parameters:
        return "see the error"
    return "yes" if kind.retryable else "no"


def led_by(error: BaseException) -> Iterator[BaseException]:
    """Yield ``error``, and all errors that led to it. Python allows no circle here."""
    each: BaseException | None = error
    while each is not None:
        yield each
        each = each.__cause__ or each.__context__


def shorten(value: Any, limit: int = 80) -> Any:
    """``value`` as an error may show it: numbers and None unchanged, all else as text.

    Text has at most ``limit`` characters, and a note about its length if it is cut.
    Lone surrogates, which UTF-8 cannot express, become escapes. Secrets of URLs are
    left out.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return _shorten_integer(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    text = value if isinstance(value, str) else repr(value)
    start = without_secrets(text[:limit])
    shown = start.encode(errors="backslashreplace").decode()
    return shown if len(text) <= limit else f"{shown}... ({len(text)} characters)"


def _shorten_integer(value: int) -> int | str:
    bits = value.bit_length()
    return value if bits <= 64 else f"an integer of {bits} bits"
