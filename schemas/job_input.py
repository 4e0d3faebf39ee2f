"""A job as a client sends it, in the ``input`` of a RunPod request."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from animatediff import catalog
from animatediff.errors import InvalidRequest
from animatediff.request import SEED_MAX, GenerationRequest, LoraRef

MAX_PROMPT = 4000
"""Characters. CLIP reads 77 tokens of it; the rest is room for comments, and no way to fill a worker's memory."""


def _printable(text: str) -> str:
    if "\0" in text or any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        raise ValueError("text without NUL and lone surrogates")
    return text


Text = Annotated[str, Field(max_length=MAX_PROMPT), AfterValidator(_printable)]
Pixels = Annotated[int, Field(ge=64, le=2048, multiple_of=8)]
# Names come from the catalog's tables, so these are types that only pydantic can see through.
SchedulerName = Literal[tuple(catalog.SCHEDULERS)]
FormatName = Literal[tuple(catalog.OUTPUT_FORMATS)]
ModelName = Literal[tuple(catalog.BASE_MODELS)]
MotionModuleName = Literal[tuple(catalog.MOTION_MODULES)]
MAX_FRAMES = max(config.max_length for config in catalog.MOTION_MODULE_VERSIONS.values())
MAX_LORAS = 8
MAX_STEPS = max(scheduler.max_steps for scheduler in catalog.SCHEDULERS.values())


class LoraInput(BaseModel):
    """A LoRA, a MotionLoRA or the v3 domain adapter: what the file is, is read from its content."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    path: Annotated[str, Field(min_length=1, max_length=300), AfterValidator(_printable)] = Field(
        description="File below the models folder, such as loras/style.safetensors."
    )
    strength: float = Field(1.0, ge=-10, le=10, description="Multiplies the change; 0 leaves it out.")
    ignore_file_alpha: bool = Field(False, description="Leave out the file's own alpha / rank, as AnimateDiff does.")


class JobInput(BaseModel):
    """One video. Only the prompt is needed; a field that is left out, or null, gets the default of the model in use."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    prompt: Text = Field(description="What to show. CLIP reads its first 77 tokens.")
    negative_prompt: Text = Field("", description="What not to show; used where guidance_scale is above 1.")
    num_frames: int | None = Field(
        None, ge=1, le=MAX_FRAMES, description="Frames; at most what the motion module was made for (v1 24, v2, v3 32)."
    )
    width: Pixels | None = Field(None, description="Pixels, a multiple of 8.")
    height: Pixels | None = Field(None, description="Pixels, a multiple of 8.")
    num_inference_steps: int | None = Field(None, ge=1, le=MAX_STEPS, description="Denoising steps.")
    guidance_scale: float | None = Field(
        None, ge=0, le=30, description="How closely to follow the prompt. At most 1: no guidance, half the work."
    )
    seed: int | None = Field(
        None, ge=0, le=SEED_MAX, description="Same seed, same video. Left out: drawn, and returned."
    )
    scheduler: SchedulerName | None = Field(  # pyright: ignore[reportInvalidTypeForm]
        None, description="Sampler."
    )
    fps: int | None = Field(None, ge=1, le=60, description="Frames a second in the file; gif: at most 50.")
    format: FormatName | None = Field(  # pyright: ignore[reportInvalidTypeForm]
        None, description="File format."
    )
    clip_skip: int = Field(0, ge=0, le=11, description="Layers of the text encoder to leave out at its end.")
    model: ModelName | None = Field(  # pyright: ignore[reportInvalidTypeForm]
        None, description="Image model; left out: the first one that is installed."
    )
    motion_module: MotionModuleName | None = Field(  # pyright: ignore[reportInvalidTypeForm]
        None, description="Motion module of that model's family."
    )
    loras: list[LoraInput] = Field(
        [], max_length=MAX_LORAS, description="Changes of the weights for this job alone; they add up."
    )

    def to_request(self) -> GenerationRequest:
        """The same job in the package's own terms."""
        loras = tuple(LoraRef(**lora.model_dump()) for lora in self.loras)
        return GenerationRequest(**{**self.model_dump(exclude={"loras"}), "loras": loras})


def parse_job_input(raw: Any) -> GenerationRequest:
    """Check a job's ``input``. Raises InvalidRequest for its first wrong field, all further ones in ``problems``."""
    try:
        return JobInput.model_validate(raw).to_request()
    except ValidationError as error:
        (field, got, allowed), *more = (_problem(detail, raw) for detail in error.errors(include_url=False))
        raise InvalidRequest(field, got, allowed, more) from None


_OBJECT = "an object with the job's fields"


def _problem(detail: Any, raw: Any) -> tuple[str, Any, str]:
    """One of pydantic's findings as (field, what came, what may come)."""
    field = ".".join(str(part) for part in detail["loc"]) or "input"
    kind = detail["type"]
    names = ", ".join((LoraInput if detail["loc"][:1] == ("loras",) else JobInput).model_fields)
    if kind == "extra_forbidden":
        return field, detail["input"], f"no such field; there are {names}"
    if kind == "missing":
        return field, None, "this field is needed"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return (field, detail["input"], f"an object with {names}") if detail["loc"] else (field, raw, _OBJECT)
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return field, detail["input"], message[0].lower() + message[1:]
