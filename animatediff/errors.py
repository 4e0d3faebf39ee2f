"""Every error that can leave this package, as one tree.

    AnimateDiffError
    ├── InvalidRequest        the job asks for something that is not allowed; nothing ran
    ├── ConfigurationError    the service itself is set up wrongly; found at start
    ├── AssetError            a weight file or input file cannot be found or fetched
    ├── CheckpointError       a file was read and is not what is needed
    ├── GenerationError       the model ran and failed
    │   ├── NonFiniteLatents  NaN or infinity, with the step where it began
    │   ├── OutOfMemory       the device has no room for this job
    │   ├── JobCancelled      somebody asked to stop
    │   └── JobTimedOut       the job took longer than this service allows
    ├── EncodeError           frames could not be written as the wanted format
    ├── StorageError          the finished file could not be stored
    ├── OutputTooLarge        the finished file is larger than an answer may be, and there is no bucket
    ├── EngineCorrupted       the loaded weights can no longer be trusted; replace the worker
    ├── DeviceFailed          the GPU reported an error of its own; replace the worker
    └── InternalError         a bug of ours

``code`` is the stable name that clients branch on, ``retryable`` says whether the same
job may succeed later, ``fatal`` that this worker must not take another one.
"""

from typing import Any, ClassVar


class AnimateDiffError(Exception):
    """Root of the tree. ``details`` are JSON-ready facts that a client may show or
    branch on.
    """

    code: ClassVar[str] = "ANIMATEDIFF_ERROR"
    retryable: bool = False
    fatal: ClassVar[bool] = False

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def to_dict(self) -> dict[str, Any]:
        """The error as a client sees it: code, message, retryable, and the details of
        its class.
        """
        return {
            "code": self.code,
            "message": self.message,
            "retryable": self.retryable,
            **self.details,
        }


class InvalidRequest(AnimateDiffError):
    """A field of the job is wrong: ``field`` is its path, ``got`` what came,
    ``allowed`` what may come.

    ``problems`` lists further wrong fields of the same job as (field, got, allowed)
    triples, so that a client can mend them all at once.
    """

    code = "INVALID_REQUEST"

    def __init__(
        self,
        field: str,
        got: Any,
        allowed: str,
        problems: list[tuple[str, Any, str]] | None = None,
    ) -> None:
        got = shorten(got)
        super().__init__(
            f"{field}: got {got}, allowed: {allowed}",
            field=field,
            got=got,
            allowed=allowed,
        )
        if problems:
            self.details["problems"] = [
                {"field": f, "got": shorten(g), "allowed": a} for f, g, a in problems
            ]


class ConfigurationError(AnimateDiffError):
    """A setting of the service is missing or wrong. Raised at start, before any job is
    taken.
    """

    code = "CONFIGURATION"


class AssetError(AnimateDiffError):
    """A file that the job needs is not here and could not be fetched."""

    code = "ASSET_UNAVAILABLE"

    def __init__(
        self, message: str, *, retryable: bool = False, **details: Any
    ) -> None:
        super().__init__(message, **details)
        self.retryable = retryable


class CheckpointError(AnimateDiffError):
    """A weight file is damaged, of another kind, or of another shape than the model.
    The model was not touched.
    """

    code = "CHECKPOINT_MISMATCH"


class GenerationError(AnimateDiffError):
    """The model ran and could not finish."""

    code = "GENERATION_FAILED"


class NonFiniteLatents(GenerationError):
    """NaN or infinity appeared, after denoising step ``step`` (from 0), or, with None,
    in the VAE after all steps.
    """

    code = "NON_FINITE_LATENTS"

    def __init__(self, step: int | None, where: str) -> None:
        when = "" if step is None else f" at denoising step {step}"
        super().__init__(
            f"NaN or infinity in the {where}{when}", step=step, where=where
        )


class OutOfMemory(GenerationError):
    """The device has no room for this job; smaller frames, or fewer of them, need less."""

    code = "OUT_OF_MEMORY"


class JobCancelled(GenerationError):
    """The job was told to stop, and stopped between two denoising steps."""

    code = "CANCELLED"


class JobTimedOut(GenerationError):
    """The job ran for longer than the service allows, and was stopped between two
    denoising steps.
    """

    code = "TIMED_OUT"


class OutputTooLarge(AnimateDiffError):
    """The file is larger than the platform takes as an answer, and there is no bucket
    to put it into.
    """

    code = "OUTPUT_TOO_LARGE"


class EncodeError(AnimateDiffError):
    """The frames could not be written in the wanted format."""

    code = "ENCODE_FAILED"


class StorageError(AnimateDiffError):
    """The finished file could not be stored. The work is done, so the same job may be
    sent again.
    """

    code = "STORAGE_FAILED"
    retryable = True


class EngineCorrupted(AnimateDiffError):
    """Loaded weights could not be put back as they were. No later result of this
    process can be trusted.
    """

    code = "ENGINE_CORRUPTED"
    retryable = True
    fatal = True


class DeviceFailed(AnimateDiffError):
    """The device reported an error of its own, after which nothing on it can be
    trusted.
    """

    code = "DEVICE_FAILED"
    retryable = True
    fatal = True


class InternalError(AnimateDiffError):
    """Anything that none of the other classes foresaw: our bug. The cause is in the
    worker's log, not in the answer.
    """

    code = "INTERNAL"


def shorten(value: Any, limit: int = 80) -> Any:
    """``value`` as it may stand in an error: numbers and None as they are, all else as
    text of at most ``limit``.

    Lone surrogates, which UTF-8 has no place for, are written as escapes.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return (
            value
            if value.bit_length() <= 64
            else f"an integer of {value.bit_length()} bits"
        )
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    text = value if isinstance(value, str) else repr(value)
    shown = text[:limit].encode(errors="backslashreplace").decode()
    return shown if len(text) <= limit else f"{shown}... ({len(text)} characters)"
