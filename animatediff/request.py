"""What one job asks for, as frozen values. No torch here.

A ``GenerationRequest`` may leave fields out (None); ``resolve`` fills them from the defaults of the model family in
use and checks the rules that involve more than one field. A ``ResolvedRequest`` has no None left.
"""

import secrets
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields

from . import catalog
from .errors import InvalidRequest

SEED_MAX = 2**64 - 1


@dataclass(frozen=True)
class LoraRef:
    """A LoRA, MotionLoRA or domain adapter: its file below the models folder, and how strongly it acts.

    ``ignore_file_alpha``: leave out the file's own alpha / rank, as the published code does.
    """

    path: str
    strength: float = 1.0
    ignore_file_alpha: bool = False


@dataclass(frozen=True)
class GenerationRequest:
    """A job as a user writes it: only the prompt is needed. Sizes are in pixels."""

    prompt: str
    negative_prompt: str = ""
    num_frames: int | None = None
    width: int | None = None
    height: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    scheduler: str | None = None
    fps: int | None = None
    format: str | None = None
    clip_skip: int = 0
    model: str | None = None
    motion_module: str | None = None
    loras: tuple[LoraRef, ...] = ()


@dataclass(frozen=True)
class ResolvedRequest:
    """A job with every field decided: running it twice gives the same frames."""

    prompt: str
    negative_prompt: str
    num_frames: int
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    seed: int
    scheduler: str
    fps: int
    format: str
    clip_skip: int
    model: str
    motion_module: str
    loras: tuple[LoraRef, ...]

    @property
    def megapixel_steps(self) -> float:
        """The size of the work: frames x width x height x steps, in millions."""
        return self.num_frames * self.width * self.height * self.num_inference_steps / 1e6


_NAMES = tuple(field.name for field in fields(GenerationRequest))


def resolve(
    request: GenerationRequest, *, model: str, installed_motion: Collection[str], max_megapixel_steps: float
) -> ResolvedRequest:
    """Decide every field that ``request`` leaves open, for the base model named ``model``.

    ``installed_motion`` are the motion modules that can be used; a seed that is not given is drawn here, once.
    Raises InvalidRequest for combinations that cannot run.
    """
    family = catalog.BASE_MODELS[model]
    motion = request.motion_module or next(
        (name for name in family.motion_modules if name in installed_motion), family.motion_modules[0]
    )
    if motion not in family.motion_modules:
        raise InvalidRequest("motion_module", motion, f"for model {model}: one of {', '.join(family.motion_modules)}")
    given = {name: value for name in _NAMES if (value := getattr(request, name)) is not None}
    resolved = ResolvedRequest(
        **{
            **asdict(family.defaults),
            "seed": secrets.randbits(64) if request.seed is None else request.seed,
            **given,
            "model": model,
            "motion_module": motion,
        }
    )
    _check(resolved, max_megapixel_steps)
    return resolved


def _check(request: ResolvedRequest, max_megapixel_steps: float) -> None:
    limit = catalog.max_frames(request.motion_module)
    if request.num_frames > limit:
        raise InvalidRequest("num_frames", request.num_frames, f"1 to {limit} with {request.motion_module}")
    most_steps = catalog.SCHEDULERS[request.scheduler].max_steps
    if request.num_inference_steps > most_steps:
        raise InvalidRequest(
            "num_inference_steps", request.num_inference_steps, f"1 to {most_steps} with {request.scheduler}"
        )
    fastest = catalog.OUTPUT_FORMATS[request.format].max_fps
    if request.fps > fastest:
        raise InvalidRequest("fps", request.fps, f"1 to {fastest} in the format {request.format}")
    if request.megapixel_steps > max_megapixel_steps:
        raise InvalidRequest(
            "num_frames, width, height, num_inference_steps",
            f"{request.num_frames} x {request.width} x {request.height} x {request.num_inference_steps}"
            f" = {request.megapixel_steps:.0f} megapixel steps",
            f"at most {max_megapixel_steps:g} megapixel steps here (ANIMATEDIFF_MAX_MEGAPIXEL_STEPS)",
        )
