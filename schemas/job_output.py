"""What a job is answered."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Part(BaseModel):
    """Weights that made the video."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(
        description="As the job named it: a name in the catalog, or a reference to a"
        " file."
    )
    sha256: str = Field(
        pattern="^[0-9a-f]{64}$", description="Hash of the weights' content."
    )


class LoraPart(Part):
    """A LoRA that took part."""

    strength: float


class EmbeddingPart(Part):
    """A textual inversion that took part."""

    token: str | None


class ControlPart(Part):
    """A SparseCtrl branch that took part."""

    frame_indices: list[int]
    strength: float
    start: float
    end: float


class JobOutput(BaseModel):
    """A finished video, and everything that is needed to make it again."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    url: str = Field(
        description="Where the file is: an https URL; without a bucket a data URL"
        " (the file), locally a file URL."
    )
    format: str
    mime: str
    bytes: int = Field(gt=0, description="Size of the file.")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="Hash of the file.")
    seed: int = Field(description="The seed that was used, given or drawn.")
    num_frames: int
    fps: int
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    clip_skip: int
    model: Part
    motion_module: Part
    dreambooth: Part | None
    vae: Part | None
    loras: list[LoraPart]
    embeddings: list[EmbeddingPart]
    controls: list[ControlPart]
    timings: dict[str, float] = Field(
        description="Seconds by phase: prepare, queue, load, encode, denoise, decode,"
        " hash, write, store; gpu: on the"
        " device, total: all of it."
    )
    worker: dict[str, float] = Field(
        description="The worker as it was then: jobs done, seconds since its start,"
        " and the device's share of them."
    )
    warnings: list[str] = Field(
        description="What a user would want to know, such as a prompt that was cut."
    )


class JobError(BaseModel):
    """Why a job failed: the ``error`` of a failed job is this object as JSON text. Some
    codes add further fields.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    code: str = Field(description="Stable name of the kind of error, to branch on.")
    message: str = Field(description="For people.")
    retryable: bool = Field(description="Whether the same job may succeed later.")


def render_job_output(output: Mapping[str, Any]) -> dict[str, Any]:
    """``output`` checked against JobOutput, as plain JSON values."""
    return JobOutput.model_validate(dict(output)).model_dump(mode="json")
