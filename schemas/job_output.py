"""The answer to a job.

What the output repeats of a job follows from the declaration in
``animatediff.job.clip``.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import pydantic
from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo

from animatediff.job.clip import Clip, ControlFile, EmbeddingFile, LoraFile
from animatediff.job.fields import echoed


class _Output(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Part(_Output):
    """Weights that made the video."""

    name: str = Field(
        description="As the job named it: a name in the catalog, or a reference to a"
        " file."
    )
    sha256: str = Field(
        pattern="^[0-9a-f]{64}$", description="Hash of the weights' content."
    )


def _echo(model: type[BaseModel]) -> dict[str, Any]:
    """The fields that the output repeats of ``model``, without their bounds."""
    return {
        name: (_bare(info), Field(description=info.description))
        for name, info in echoed(model).items()
    }


def _bare(info: FieldInfo) -> Any:
    listed = [mark for mark in info.metadata if isinstance(mark, pydantic.Strict)]
    return Annotated[info.annotation, *listed] if listed else info.annotation


def _part(name: str, model: type[BaseModel], doc: str) -> Any:
    return create_model(
        name, __base__=Part, __doc__=doc, __module__=__name__, **_echo(model)
    )


if TYPE_CHECKING:

    class ClipEcho(_Output):
        """The values of a clip that the output repeats."""

        def __getattr__(self, name: str) -> Any: ...

    class LoraPart(Part, ClipEcho):
        """A weight file that took part, and how it was used."""

    EmbeddingPart = LoraPart
    ControlPart = LoraPart
else:
    ClipEcho = create_model("ClipEcho", __base__=_Output, **_echo(Clip))
    LoraPart = _part("LoraPart", LoraFile, "A LoRA that took part.")
    EmbeddingPart = _part(
        "EmbeddingPart", EmbeddingFile, "A textual inversion that took part."
    )
    ControlPart = _part(
        "ControlPart", ControlFile, "A SparseCtrl branch that took part."
    )


class JobOutput(ClipEcho):
    """A finished video, and everything that is needed to make it again."""

    url: str = Field(
        description="Where the file is: an https URL; without a bucket a data URL"
        " (the file), locally a file URL."
    )
    format: str = Field(description="The file's format, by its name in a job.")
    mime: str = Field(description="The file's media type.")
    bytes: int = Field(gt=0, description="Size of the file.")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="Hash of the file.")
    model: Part = Field(description="The image model.")
    motion_module: Part = Field(description="The motion module.")
    dreambooth: Part | None = Field(
        description="The DreamBooth file, if there was one."
    )
    vae: Part | None = Field(description="The VAE file, if there was one.")
    loras: list[LoraPart] = Field(description="The LoRAs.")
    embeddings: list[EmbeddingPart] = Field(description="The textual inversions.")
    controls: list[ControlPart] = Field(description="The SparseCtrl branches.")
    timings: dict[str, float] = Field(
        description="Seconds by phase: prepare, queue, load, encode, denoise, decode,"
        " hash, write, store; gpu: time on the device; total: the whole job."
    )
    worker: dict[str, float] = Field(
        description="The worker at that moment: jobs done, seconds since its start,"
        " and the share of them that its device was busy."
    )
    warnings: list[str] = Field(
        description="Facts that the user should know, such as a prompt that was cut."
    )


class JobError(BaseModel):
    """Why a job failed: its ``error`` is this object as JSON text.

    Some codes add further fields.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    code: str = Field(description="Stable name of the kind of error, to branch on.")
    message: str = Field(description="For people.")
    retryable: bool = Field(description="Whether the same job may succeed later.")


def render_job_output(output: Mapping[str, Any]) -> dict[str, Any]:
    """``output`` checked against JobOutput, as plain JSON values."""
    return JobOutput.model_validate(dict(output)).model_dump(mode="json")
