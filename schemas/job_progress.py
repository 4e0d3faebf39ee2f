"""The progress of a job, as its output while it runs."""

from pydantic import BaseModel, ConfigDict, Field

from animatediff.progress import Phase


class JobProgress(BaseModel):
    """How far a job is: the output of a job in progress."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    phase: Phase = Field(description="The part of the work that is under way.")
    step: int = Field(
        ge=0,
        description="Done so far: bytes in the phase download, frames in decode, steps"
        " of the sampler in denoise.",
    )
    total: int = Field(ge=0, description="Of so many; 0 where that is not known.")
    preview: str | None = Field(
        default=None,
        pattern="^data:image/webp;base64,",
        description="The clip as it looks so far, if the job asked for it: an animated"
        " WebP as a data URL.",
    )
    seconds_left: float | None = Field(
        default=None, ge=0, description="Estimate while denoising; absent before."
    )
