"""The declaration of a job: every field once, with its bounds and its meaning.

The JSON schema, the output's echo, the metadata in a file, the YAML keys, the command
line and the documentation's table all follow from ``Clip``. To add a field, declare it
here and use it where it acts: in ``SamplerFields`` if that is in a text encoder or in
the sampler, which get it as ``AnimationInputs``.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, create_model
from pydantic.fields import FieldInfo

from .. import catalog
from ..families import FAMILIES
from ..video import OUTPUT_FORMATS
from .fields import (
    FILE_METADATA,
    Listed,
    Most,
    Names,
    Pixels,
    Printable,
    Reference,
    Shown,
    Strict,
    Text,
    shown,
)
from .guidance import needs_unconditional
from .windows import FUSES, SCHEDULES, Layout, Window

SEED_MAX = 2**64 - 1
MAX_LORAS = 8
MAX_EMBEDDINGS = 8
MAX_CONTROLS = 4
MAX_IMAGE = 28_000_000
"""Characters of a picture as base64; more than any request of the platform holds."""
MIN_PREVIEW_BYTES = 2000
MAX_PREVIEW_BYTES = 500_000
INDEPENDENT = "independent"
"""The noise of a clip in windows whose frames each have their own."""
MAX_PICTURES = 64
"""Pictures of a control."""
MAX_FRAMES = 4096
MAX_WINDOW = max(
    config.max_length for config in catalog.MOTION_MODULE_VERSIONS.values()
)
"""Frames that the longest table of a motion module has room for."""

_DEFAULTS = catalog.BASE_MODELS[catalog.DEFAULT_MODEL].defaults
_SCHEDULES = Names({name: row.title for name, row in SCHEDULES.items()})
_NOISES = Names(
    {
        INDEPENDENT: "each its own",
        "repeated": "that of the first window, shuffled (FreeNoise)",
    }
)
_FUSES = Names({name: row.title for name, row in FUSES.items()})
_SCHEDULERS = Names({name: row.title for name, row in catalog.SCHEDULERS.items()})
_FORMATS = Names({name: row.mime for name, row in OUTPUT_FORMATS.items()})
_METADATA = Names(FILE_METADATA)
_MODELS = Names(
    {name: row.title for name, row in catalog.BASE_MODELS.items()},
    others="a folder below the models folder",
)
_MOTION_MODULES = Names(
    {name: row.title for name, row in catalog.MOTION_MODULES.items()},
    others="a file, named as a LoRA's path",
)
_FAMILIES = " or ".join(family.name for family in FAMILIES.values())
_VERSIONS = Names(
    {
        name: f"{config.max_length} frames"
        for name, config in catalog.MOTION_MODULE_VERSIONS.items()
    }
)
_MOST_STEPS = Most(
    "scheduler", {name: row.max_steps for name, row in catalog.SCHEDULERS.items()}
)
_MOST_FPS = Most("format", {name: row.max_fps for name, row in OUTPUT_FORMATS.items()})

Image = Annotated[str, Field(min_length=1, max_length=MAX_IMAGE), Printable]
Word = Annotated[str, Field(min_length=1, max_length=100), Printable]


class LoraFile(Strict):
    """A LoRA, a MotionLoRA or the v3 domain adapter; its content decides which."""

    path: Annotated[
        Reference,
        Field(
            description="Path below the models folder, published name,"
            " hf://owner/repo/file@revision or https URL;"
            " #sha256=... at its end is checked."
        ),
    ]
    strength: Annotated[
        float,
        Shown("weights"),
        Field(ge=-10, le=10, description="Multiplies the change; 0 leaves it out."),
    ] = 1.0
    ignore_file_alpha: Annotated[
        bool,
        Field(
            description="Leave out the file's own alpha / rank, as AnimateDiff does."
        ),
    ] = False


class EmbeddingFile(Strict):
    """A textual inversion."""

    path: Annotated[Reference, Field(description="As a LoRA's path.")]
    token: Annotated[
        Word | None,
        Shown("weights"),
        Field(
            description="Word in the prompts that it stands for; left out: the words in"
            " the file, or the file's name."
        ),
    ] = None


class ControlFile(Strict):
    """A SparseCtrl branch (arXiv 2311.16933) and the images that single frames follow.

    The file's content decides whether it takes pictures (rgb) or scribbles.
    """

    path: Annotated[Reference, Field(description="As a LoRA's path.")]
    images: Annotated[
        tuple[Image, ...],
        Listed,
        Field(
            min_length=1,
            max_length=MAX_PICTURES,
            description="Each an https URL, base64 (a data: URI or bare), or a path"
            " below the input folder.",
        ),
    ]
    frame_indices: Annotated[
        tuple[int, ...],
        Listed,
        Shown("control"),
        Field(
            min_length=1,
            max_length=MAX_PICTURES,
            description="The frame of each image; -1 is the last.",
        ),
    ] = (0,)
    strength: Annotated[
        float,
        Shown("control"),
        Field(ge=0, le=10, description="Multiplies the branch's influence."),
    ] = 1.0
    start: Annotated[
        float,
        Shown("control"),
        Field(ge=0, le=1, description="Acts from this fraction of the steps on."),
    ] = 0.0
    end: Annotated[
        float,
        Shown("control"),
        Field(ge=0, le=1, description="Acts up to this fraction of the steps."),
    ] = 1.0
    normalize: Annotated[
        bool,
        Field(
            description="Turn images gray and stretch them to black and white first."
        ),
    ] = False


class ContextWindows(Strict):
    """Overlapping windows, for a clip longer than the motion module can take.

    Each step runs the UNet on every window, and averages what it predicts for a frame.
    """

    length: Annotated[
        int,
        Field(
            ge=2,
            le=MAX_WINDOW,
            description="Frames of a window, at most those that the motion module can"
            " take. Most modules were trained on 16.",
        ),
    ] = 16
    overlap: Annotated[
        int,
        Field(
            ge=0,
            lt=MAX_WINDOW,
            description="Frames that two neighbours share; fewer than length.",
        ),
    ] = 4
    stride: Annotated[
        int,
        Field(
            ge=1,
            le=4,
            description="Passes; in each, a window's frames lie twice as far apart as"
            " in the one before, so that it sees more of the clip.",
        ),
    ] = 1
    schedule: Annotated[
        str, _SCHEDULES, Field(description=f"Where windows lie. {_SCHEDULES}.")
    ] = "uniform"
    fuse: Annotated[
        str,
        _FUSES,
        Field(description=f"How a window's frames count in the average. {_FUSES}."),
    ] = "pyramid"

    noise: Annotated[
        str, _NOISES, Field(description=f"Noise of the clip's frames. {_NOISES}.")
    ] = INDEPENDENT

    def layout(self, num_frames: int) -> Layout:
        """Return the layout of the windows; a short clip is one window."""
        length = min(self.length, num_frames)
        return Layout(num_frames, length, min(self.overlap, length - 1), self.stride)

    def windows(self, layout: Layout, step: int) -> list[Window]:
        """Return the windows of a step (from 0)."""
        return SCHEDULES[self.schedule].windows(layout, step)

    def weights(self, layout: Layout, window: Window) -> list[float]:
        """Return how much each frame of ``window`` counts in the average."""
        return FUSES[self.fuse].weights(layout, window)

    def frames_a_step(self, num_frames: int) -> int:
        """Return the number of frames that the UNet runs on in the first step."""
        return sum(map(len, self.windows(self.layout(num_frames), 0)))


class PreviewRequest(Strict):
    """Moving pictures of a clip in its progress, while it is made."""

    every: Annotated[
        int, Field(ge=1, le=150, description="Steps from one preview to the next.")
    ] = 5
    max_bytes: Annotated[
        int,
        Field(
            ge=MIN_PREVIEW_BYTES,
            le=MAX_PREVIEW_BYTES,
            description="Longest data URL of a preview; it gets smaller until it fits.",
        ),
    ] = 30_000


def _usual(name: str) -> Callable[[], Any]:
    """Return the default of a field in Python: the default model's.

    A job that leaves the field out gets the default of its own model, see ``resolve``.
    """
    return lambda: getattr(_DEFAULTS, name)


@dataclass(frozen=True)
class SamplerFields:
    """The fields that the text encoders and the sampler read.

    As a part of a job their values are checked. ``sampling.inputs.AnimationInputs``
    has them too, unchecked: there, only what the models cannot do is refused.
    """

    prompt: Annotated[
        Text,
        Shown("prompt", echo=False),
        Field(description="What to show. CLIP reads its first 77 tokens."),
    ]
    negative_prompt: Annotated[
        Text,
        Shown("prompt", echo=False),
        Field(description="What not to show; used if guidance_scale is above 1."),
    ] = ""
    num_frames: Annotated[
        int,
        Shown("size", yaml="L", by_model=True),
        Field(
            ge=1,
            le=MAX_FRAMES,
            description="Frames. More than the motion module can take are made in"
            " windows, see context.",
        ),
    ] = field(default_factory=_usual("num_frames"))
    width: Annotated[
        Pixels,
        Shown("size", yaml="W", by_model=True),
        Field(description="Width in pixels."),
    ] = field(default_factory=_usual("width"))
    height: Annotated[
        Pixels,
        Shown("size", yaml="H", by_model=True),
        Field(description="Height in pixels."),
    ] = field(default_factory=_usual("height"))
    num_inference_steps: Annotated[
        int,
        Shown("sampling", yaml="steps", by_model=True),
        _MOST_STEPS,
        Field(ge=1, description="Denoising steps."),
    ] = field(default_factory=_usual("num_inference_steps"))
    guidance_scale: Annotated[
        float,
        Shown("sampling", by_model=True),
        Field(
            ge=0,
            le=30,
            description="How closely to follow the prompt. At most 1: no guidance,"
            " half the work.",
        ),
    ] = field(default_factory=_usual("guidance_scale"))
    scheduler: Annotated[
        str,
        Shown("sampling", by_model=True),
        _SCHEDULERS,
        Field(description=f"Sampler. {_SCHEDULERS}."),
    ] = field(default_factory=_usual("scheduler"))
    clip_skip: Annotated[
        int,
        Shown("prompt"),
        Field(ge=0, le=11, description="Last layers of the text encoder to leave out."),
    ] = 0

    context: Annotated[
        ContextWindows | None,
        Shown("size"),
        Field(
            description="Make the clip in overlapping windows. Left out: only if it has"
            " more frames than the motion module can take."
        ),
    ] = None

    @property
    def texts(self) -> dict[str, str]:
        """The texts that the model reads, by name: the negative one first, if any."""
        if needs_unconditional(self.guidance_scale):
            return {"negative_prompt": self.negative_prompt, "prompt": self.prompt}
        return {"prompt": self.prompt}


# Strict is frozen by its configuration, which pyright does not read.
class Clip(Strict, SamplerFields):  # pyright: ignore[reportGeneralTypeIssues]
    """A clip with every field decided: made twice, it gives the same frames.

    None means that a part is not used.
    """

    loop: Annotated[
        bool,
        Shown("size"),
        Field(description="Let the last frame lead to the first, by looped windows."),
    ] = False
    seed: Annotated[
        int,
        Shown("sampling", by_model=True),
        Field(
            ge=0,
            le=SEED_MAX,
            description="Same seed, same video. Left out: drawn, and returned.",
        ),
    ]
    fps: Annotated[
        int,
        Shown("output", by_model=True),
        _MOST_FPS,
        Field(ge=1, description="Frames a second in the file."),
    ]
    format: Annotated[
        str,
        Shown("output", by_model=True),
        _FORMATS,
        Field(description=f"File format. {_FORMATS}."),
    ]
    file_metadata: Annotated[
        str,
        Shown("output", echo=False),
        _METADATA,
        Field(description=f"What the file shows of its job. {_METADATA}."),
    ] = "full"
    preview: Annotated[
        PreviewRequest | None,
        Shown("output", echo=False),
        Field(description="Show the clip in the progress while it is made."),
    ] = None
    model: Annotated[
        Reference,
        Shown("weights", echo=False, yaml="pretrained_model_path", by_model=True),
        _MODELS,
        Field(
            description=f"Image model. {_MODELS}. Left out: the first one that is"
            " installed."
        ),
    ]
    motion_module: Annotated[
        Reference,
        Shown("weights", echo=False, by_model=True),
        _MOTION_MODULES,
        Field(description=f"Motion module of the model's family. {_MOTION_MODULES}."),
    ]
    motion_module_version: Annotated[
        Annotated[str, _VERSIONS] | None,
        Shown("weights", echo=False),
        Field(
            description="For a motion-module file that leaves it open, because v1 and"
            f" v3 have the same keys. {_VERSIONS}."
        ),
    ] = None
    dreambooth: Annotated[
        Reference | None,
        Shown("weights", echo=False, yaml="dreambooth_path"),
        Field(
            description=f"{_FAMILIES} model in one file, used in place of the model's"
            " weights; named as a LoRA's path."
        ),
    ] = None
    vae: Annotated[
        Reference | None,
        Shown("weights", echo=False, yaml="vae_path"),
        Field(
            description="VAE file, used in place of the model's; named as a LoRA's"
            " path."
        ),
    ] = None
    loras: Annotated[
        tuple[LoraFile, ...],
        Listed,
        Shown("weights", echo=False),
        Field(
            max_length=MAX_LORAS,
            description="Changes of the weights for this job alone; they add up.",
        ),
    ] = ()
    embeddings: Annotated[
        tuple[EmbeddingFile, ...],
        Listed,
        Shown("weights", echo=False),
        Field(max_length=MAX_EMBEDDINGS, description="Textual inversions."),
    ] = ()
    controls: Annotated[
        tuple[ControlFile, ...],
        Listed,
        Shown("control", echo=False),
        Field(
            max_length=MAX_CONTROLS,
            description="SparseCtrl: images that single frames follow; several add up.",
        ),
    ] = ()

    @property
    def megapixel_steps(self) -> float:
        """The size of the work: frames x width x height x steps, in millions.

        Frames count once for each window that holds them.
        """
        frames = self.num_frames
        if self.context is not None:
            frames = self.context.frames_a_step(frames)
        return frames * self.width * self.height * self.num_inference_steps / 1e6


def _left_open(info: FieldInfo) -> tuple[Any, Any]:
    """A field that a job may leave out; None stands for that."""
    decided: Any = Annotated[info.annotation, *info.metadata]
    return decided | None, Field(default=None, description=info.description)


def _request_fields() -> dict[str, tuple[Any, Any]]:
    fields: dict[str, tuple[Any, Any]] = {}
    for name, info, mark in shown(Clip):
        fields[name] = _left_open(info) if mark.by_model else (info.annotation, info)
    return fields


_REQUEST = """One video. Only the prompt is needed.

A field that is left out, or null, gets the default of the model in use.
"""

if TYPE_CHECKING:

    class GenerationRequest(Strict):
        """A ``Clip`` whose fields may be left out, see below."""

        def __init__(self, *, prompt: str, **fields: Any) -> None: ...

        def __getattr__(self, name: str) -> Any: ...

else:
    GenerationRequest = create_model(
        "GenerationRequest",
        __base__=Strict,
        __cls_kwargs__={"title": "JobInput"},
        __doc__=_REQUEST,
        __module__=__name__,
        **_request_fields(),
    )
