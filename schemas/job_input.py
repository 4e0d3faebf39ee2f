"""A job as a client sends it, in the ``input`` of a RunPod request."""

from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from animatediff import catalog
from animatediff.errors import InvalidRequest, shorten
from animatediff.job.request import (
    SEED_MAX,
    ControlRef,
    EmbeddingRef,
    GenerationRequest,
    LoraRef,
)
from animatediff.video import OUTPUT_FORMATS

MAX_PROMPT = 4000
"""Characters. CLIP reads 77 tokens of it; the rest is room for comments, and no way to
fill a worker's memory.
"""


def _printable(text: str) -> str:
    if "\0" in text or any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        raise ValueError("text without NUL and lone surrogates")
    return text


Text = Annotated[str, Field(max_length=MAX_PROMPT), AfterValidator(_printable)]
Pixels = Annotated[int, Field(ge=64, le=2048, multiple_of=8)]
# Names come from the catalog's tables, so these are types that only pydantic can see
# through.
SchedulerName = Literal[tuple(catalog.SCHEDULERS)]
FormatName = Literal[tuple(OUTPUT_FORMATS)]
MotionModuleVersion = Literal[tuple(catalog.MOTION_MODULE_VERSIONS)]
MAX_FRAMES = max(
    config.max_length for config in catalog.MOTION_MODULE_VERSIONS.values()
)
MAX_LORAS = 8
MAX_EMBEDDINGS = 8
MAX_CONTROLS = 4
MAX_REFERENCE = 1000
MAX_IMAGE = 28_000_000
"""Characters, of a picture as base64; more than any request of the platform holds."""
MAX_PROBLEMS = 20
"""Wrong fields that are told beside the first: an answer is not to grow with a job's
keys.
"""
MAX_STEPS = max(scheduler.max_steps for scheduler in catalog.SCHEDULERS.values())


class Strict(BaseModel):
    """What every object of a job has in common: no unknown field, no conversion, no
    NaN.
    """

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, frozen=True
    )


Reference = Annotated[
    str, Field(min_length=1, max_length=MAX_REFERENCE), AfterValidator(_printable)
]
"""A weight file: see ``animatediff.fetch.assets``."""


class LoraInput(Strict):
    """A LoRA, a MotionLoRA or the v3 domain adapter: what the file is, is read from its
    content.
    """

    path: Reference = Field(
        description="Path below the models folder, published name,"
        " hf://owner/repo/file@revision or https URL;"
        " #sha256=... at its end is checked."
    )
    strength: float = Field(
        1.0, ge=-10, le=10, description="Multiplies the change; 0 leaves it out."
    )
    ignore_file_alpha: bool = Field(
        False, description="Leave out the file's own alpha / rank, as AnimateDiff does."
    )

    def to_ref(self) -> LoraRef:
        """The same in the package's own terms."""
        return LoraRef(**self.model_dump())


class EmbeddingInput(Strict):
    """A textual inversion."""

    path: Reference = Field(description="As a LoRA's path.")
    token: (
        Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_printable)]
        | None
    ) = Field(
        None,
        description="Word of the prompts that it stands for; left out: the file's"
        " own, or the file's name.",
    )

    def to_ref(self) -> EmbeddingRef:
        """The same in the package's own terms."""
        return EmbeddingRef(**self.model_dump())


class ControlInput(Strict):
    """A SparseCtrl branch (rgb or scribble: the file says), and the images that single
    frames should follow.
    """

    path: Reference = Field(description="As a LoRA's path.")
    images: list[
        Annotated[
            str, Field(min_length=1, max_length=MAX_IMAGE), AfterValidator(_printable)
        ]
    ] = Field(
        min_length=1,
        max_length=MAX_FRAMES,
        description="Each an https URL, base64 (a data: URI or bare), or a path below"
        " the input folder.",
    )
    frame_indices: list[int] = Field(
        [0],
        min_length=1,
        max_length=MAX_FRAMES,
        description="The frame of each image; -1 is the last.",
    )
    strength: float = Field(
        1.0, ge=0, le=10, description="Multiplies the branch's influence."
    )
    start: float = Field(
        0.0, ge=0, le=1, description="From this fraction of the steps on."
    )
    end: float = Field(1.0, ge=0, le=1, description="Up to this fraction of the steps.")
    normalize: bool = Field(
        False, description="Turn images gray and stretch them to black and white first."
    )

    def to_ref(self) -> ControlRef:
        """The same in the package's own terms."""
        lists = {
            "images": tuple(self.images),
            "frame_indices": tuple(self.frame_indices),
        }
        return ControlRef(**{**self.model_dump(), **lists})


class JobInput(Strict):
    """One video. Only the prompt is needed; a field that is left out, or null, gets the
    default of the model in use.
    """

    prompt: Text = Field(description="What to show. CLIP reads its first 77 tokens.")
    negative_prompt: Text = Field(
        "", description="What not to show; used where guidance_scale is above 1."
    )
    num_frames: int | None = Field(
        None,
        ge=1,
        le=MAX_FRAMES,
        description="Frames; at most what the motion module was made for (v1 24, v2,"
        " v3 32, AnimateLCM 64).",
    )
    width: Pixels | None = Field(None, description="Pixels, a multiple of 8.")
    height: Pixels | None = Field(None, description="Pixels, a multiple of 8.")
    num_inference_steps: int | None = Field(
        None, ge=1, le=MAX_STEPS, description="Denoising steps."
    )
    guidance_scale: float | None = Field(
        None,
        ge=0,
        le=30,
        description="How closely to follow the prompt. At most 1: no guidance, half"
        " the work.",
    )
    seed: int | None = Field(
        None,
        ge=0,
        le=SEED_MAX,
        description="Same seed, same video. Left out: drawn, and returned.",
    )
    scheduler: SchedulerName | None = Field(  # pyright: ignore[reportInvalidTypeForm]
        None, description="Sampler."
    )
    fps: int | None = Field(
        None, ge=1, le=60, description="Frames a second in the file; gif: at most 50."
    )
    format: FormatName | None = Field(  # pyright: ignore[reportInvalidTypeForm]
        None, description="File format."
    )
    clip_skip: int = Field(
        0,
        ge=0,
        le=11,
        description="Layers of the text encoder to leave out at its end.",
    )
    model: Reference | None = Field(
        None,
        description=f"Image model: {', '.join(catalog.BASE_MODELS)}, or a folder"
        f" below the models folder; left out: the"
        " first one that is installed.",
    )
    motion_module: Reference | None = Field(
        None,
        description=f"Motion module of that model's family:"
        f" {', '.join(catalog.MOTION_MODULES)}, or a file as a LoRA's"
        " path.",
    )
    motion_module_version: MotionModuleVersion | None = Field(  # pyright: ignore[reportInvalidTypeForm]
        None,
        description="Of a motion-module file that leaves it open: v1 and v3 have the"
        " same keys.",
    )
    dreambooth: Reference | None = Field(
        None,
        description="SD 1.5 model in one file, used in place of the model's weights;"
        " named as a LoRA's path.",
    )
    vae: Reference | None = Field(
        None,
        description="VAE file, used in place of the model's; named as a LoRA's path.",
    )
    loras: list[LoraInput] = Field(
        [],
        max_length=MAX_LORAS,
        description="Changes of the weights for this job alone; they add up.",
    )
    embeddings: list[EmbeddingInput] = Field(
        [], max_length=MAX_EMBEDDINGS, description="Textual inversions."
    )
    controls: list[ControlInput] = Field(
        [],
        max_length=MAX_CONTROLS,
        description="SparseCtrl: images that single frames follow; several add up.",
    )

    def to_request(self) -> GenerationRequest:
        """The same job in the package's own terms."""
        lists = {
            name: tuple(item.to_ref() for item in getattr(self, name))
            for name in _ITEMS
        }
        return GenerationRequest(**{**self.model_dump(exclude=set(_ITEMS)), **lists})


_ITEMS: dict[str, type[BaseModel]] = {
    "loras": LoraInput,
    "embeddings": EmbeddingInput,
    "controls": ControlInput,
}


def parse_job_input(raw: Any) -> GenerationRequest:
    """Check a job's ``input``. Raises InvalidRequest for its first wrong field, further
    ones in ``problems``.
    """
    try:
        return JobInput.model_validate(raw).to_request()
    except ValidationError as error:
        details = islice(error.errors(include_url=False), 1 + MAX_PROBLEMS)
        (field, got, allowed), *more = (_problem(detail, raw) for detail in details)
        raise InvalidRequest(field, got, allowed, more) from None


_OBJECT = "an object with the job's fields"


def _problem(detail: Any, raw: Any) -> tuple[str, Any, str]:
    """One of pydantic's findings as (field, what came, what may come)."""
    field = shorten(".".join(str(part) for part in detail["loc"])) or "input"
    kind = detail["type"]
    names = ", ".join(
        _ITEMS.get(
            str(detail["loc"][0]) if detail["loc"] else "", JobInput
        ).model_fields
    )
    if kind == "extra_forbidden":
        return field, detail["input"], f"no such field; there are {names}"
    if kind == "missing":
        return field, None, "this field is needed"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return (
            (field, detail["input"], f"an object with {names}")
            if detail["loc"]
            else (field, raw, _OBJECT)
        )
    message = (
        detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    )
    return field, detail["input"], message[0].lower() + message[1:]
