"""The objects that RunPod's API puts around a job, its output and its error."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from animatediff.serving.job_bucket import S3Config

from .job_input import JobInput
from .job_output import JobOutput
from .job_progress import JobProgress

_ERROR_AS_TEXT: dict[str, Any] = {
    "contentMediaType": "application/json",
    "contentSchema": {"$ref": "#/components/schemas/JobError"},
}


class _Platform(BaseModel):
    """The platform may add fields of its own."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)


class Policy(_Platform):
    """The platform's rules for a job. The worker has a time limit of its own, too."""

    execution_timeout: int = Field(
        600_000,
        alias="executionTimeout",
        ge=5000,
        description="Longest time on a worker, in milliseconds.",
    )
    ttl: int = Field(
        86_400_000,
        ge=10_000,
        le=604_800_000,
        description="Longest life of the job, with its time in the queue, in"
        " milliseconds.",
    )
    low_priority: bool = Field(
        False, alias="lowPriority", description="Start no further worker for it."
    )


class JobRequest(_Platform):
    """A job, and what the platform is to do around it."""

    input: JobInput = Field(description="The job.")
    webhook: str | None = Field(
        None,
        json_schema_extra={"format": "uri"},
        description="URL that receives the job's last status.",
    )
    policy: Policy | None = Field(None, description="The platform's rules for it.")
    s3_config: S3Config | None = Field(
        None,
        alias="s3Config",
        description="Bucket for this job's clip, if the service allows it"
        " (ANIMATEDIFF_JOB_BUCKETS).",
    )


class JobReceipt(_Platform):
    """A job that was taken into the queue."""

    id: str = Field(description="For /status, /cancel and /stream.")
    status: Literal["IN_QUEUE"]


class _Status(_Platform):
    id: str = Field(description="The job's id.")
    delay_time: int | None = Field(
        None, alias="delayTime", ge=0, description="Milliseconds in the queue."
    )
    execution_time: int | None = Field(
        None, alias="executionTime", ge=0, description="Milliseconds on the worker."
    )
    worker_id: str | None = Field(
        None, alias="workerId", description="The worker that has the job, or had it."
    )


class Queued(_Status):
    """No worker has the job yet."""

    status: Literal["IN_QUEUE"]


class Running(_Status):
    """A worker has the job; its output is the progress, once there is some."""

    status: Literal["IN_PROGRESS"]
    output: JobProgress | None = Field(None, description="How far the job is.")


class Completed(_Status):
    """The clip is made and stored."""

    status: Literal["COMPLETED"]
    output: JobOutput = Field(description="The clip, and all that made it.")


class Failed(_Status):
    """The job ended with an error."""

    status: Literal["FAILED"]
    error: str = Field(
        json_schema_extra=_ERROR_AS_TEXT,
        description="A JobError as JSON text. Text that is no JSON is from the platform"
        " itself, such as of a worker that was lost.",
    )


class Cancelled(_Status):
    """Someone cancelled the job. It has no output."""

    status: Literal["CANCELLED"]


class TimedOut(_Status):
    """The platform ended the job: a limit of its policy is over."""

    status: Literal["TIMED_OUT"]


Status = Queued | Running | Completed | Failed | Cancelled | TimedOut


class JobStatus(RootModel[Annotated[Status, Field(discriminator="status")]]):
    """What is known about a job. ``status`` decides what else is there."""


class StreamPart(_Platform):
    """A part of a stream."""

    output: Any


class Stream(_Platform):
    """Parts of a job's output. This worker sends none: its clip comes as a whole."""

    status: Literal[
        "IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"
    ]
    stream: list[StreamPart] = Field(description="Always empty.", max_length=0)
