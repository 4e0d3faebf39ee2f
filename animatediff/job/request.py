"""What one job asks for, as frozen values. No torch here.

A ``GenerationRequest`` may leave fields out (None); ``resolve`` fills them from the
defaults of the model family in use and checks the rules that involve more than one
field. A ``ResolvedRequest`` has no None left.
"""

import secrets
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from .. import catalog
from ..errors import InvalidRequest
from ..video import OUTPUT_FORMATS

SEED_MAX = 2**64 - 1


@dataclass(frozen=True)
class LoraRef:
    """A LoRA, MotionLoRA or domain adapter: where its file is, and how strongly it
    acts.

    ``ignore_file_alpha``: leave out the file's own alpha / rank, as the published code
    does.
    """

    path: str
    strength: float = 1.0
    ignore_file_alpha: bool = False


@dataclass(frozen=True)
class EmbeddingRef:
    """A textual inversion: where its file is, and the word of the prompts that it
    stands for.

    Without ``token`` it is the one that the file names, or else the file's name without
    its suffix.
    """

    path: str
    token: str | None = None


@dataclass(frozen=True)
class ControlRef:
    """A SparseCtrl branch and the pictures that single frames should follow (arXiv
    2311.16933).

    ``images``: each an https URL, base64 text, or a path; ``frame_indices`` says where
    each belongs, negative ones counted from the end. ``start`` and ``end`` are
    fractions of the steps. ``normalize``: gray, stretched to 0..1.
    """

    path: str
    images: tuple[str, ...]
    frame_indices: tuple[int, ...] = (0,)
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    normalize: bool = False


@dataclass(frozen=True)
class GenerationRequest:
    """A job as a user writes it: only the prompt is needed. Sizes are in pixels.

    Weights are named by the catalog (``model``, ``motion_module``) or by a reference,
    see ``assets``. ``motion_module_version`` is for motion-module files that leave it
    open.
    """

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
    motion_module_version: str | None = None
    dreambooth: str | None = None
    vae: str | None = None
    loras: tuple[LoraRef, ...] = ()
    embeddings: tuple[EmbeddingRef, ...] = ()
    controls: tuple[ControlRef, ...] = ()


@dataclass(frozen=True)
class ResolvedRequest:
    """A job with every field decided: running it twice gives the same frames. None only
    means "not used".
    """

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
    motion_module_version: str | None
    dreambooth: str | None
    vae: str | None
    loras: tuple[LoraRef, ...]
    embeddings: tuple[EmbeddingRef, ...]
    controls: tuple[ControlRef, ...]

    @property
    def megapixel_steps(self) -> float:
        """The size of the work: frames x width x height x steps, in millions."""
        return (
            self.num_frames * self.width * self.height * self.num_inference_steps / 1e6
        )


_NAMES = tuple(field.name for field in fields(GenerationRequest))


def resolve(
    request: GenerationRequest,
    *,
    model: str,
    installed_motion: Collection[str],
    max_megapixel_steps: float,
) -> ResolvedRequest:
    """Decide every field that ``request`` leaves open, for the base model ``model``:
    its name, or a folder of one.

    ``installed_motion`` are the motion modules that can be used; a seed that is not
    given is drawn here, once. Raises InvalidRequest for combinations that cannot run.
    """
    family = catalog.BASE_MODELS.get(model, catalog.BASE_MODELS["sd15"])
    motion = request.motion_module or next(
        (name for name in family.motion_modules if name in installed_motion),
        family.motion_modules[0],
    )
    row = catalog.MOTION_MODULES.get(motion)
    if (
        row is not None
        and model in catalog.BASE_MODELS
        and motion not in family.motion_modules
    ):
        raise InvalidRequest(
            "motion_module",
            motion,
            f"for model {model}: one of {', '.join(family.motion_modules)}",
        )
    if row is not None and request.motion_module_version not in (None, row.version):
        raise InvalidRequest(
            "motion_module_version",
            request.motion_module_version,
            f"{row.version} for {motion}",
        )
    given = {
        name: value for name in _NAMES if (value := getattr(request, name)) is not None
    }
    nothing: dict[str, Any] = {
        "motion_module_version": None,
        "dreambooth": None,
        "vae": None,
    }
    resolved = ResolvedRequest(
        **{
            **nothing,
            **asdict(family.defaults),
            **(row.defaults if row else {}),
            "seed": secrets.randbits(64) if request.seed is None else request.seed,
            **given,
            "model": model,
            "motion_module": motion,
        }
    )
    _check(resolved, max_megapixel_steps)
    return resolved


def _check(request: ResolvedRequest, max_megapixel_steps: float) -> None:
    if (
        request.motion_module in catalog.MOTION_MODULES
    ):  # of any other file only its content tells
        limit = catalog.max_frames(request.motion_module)
        if request.num_frames > limit:
            raise InvalidRequest(
                "num_frames",
                request.num_frames,
                f"1 to {limit} with {request.motion_module}",
            )
    most_steps = catalog.SCHEDULERS[request.scheduler].max_steps
    if request.num_inference_steps > most_steps:
        raise InvalidRequest(
            "num_inference_steps",
            request.num_inference_steps,
            f"1 to {most_steps} with {request.scheduler}",
        )
    fastest = OUTPUT_FORMATS[request.format].max_fps
    if request.fps > fastest:
        raise InvalidRequest(
            "fps", request.fps, f"1 to {fastest} in the format {request.format}"
        )
    if request.megapixel_steps > max_megapixel_steps:
        raise InvalidRequest(
            "num_frames, width, height, num_inference_steps",
            f"{request.num_frames} x {request.width} x {request.height} x"
            f" {request.num_inference_steps}"
            f" = {request.megapixel_steps:.0f} megapixel steps",
            f"at most {max_megapixel_steps:g} megapixel steps here"
            f" (ANIMATEDIFF_MAX_MEGAPIXEL_STEPS)",
        )
    for i, control in enumerate(request.controls):
        _check_control(f"controls.{i}", control, request.num_frames)


def _check_control(field: str, control: ControlRef, num_frames: int) -> None:
    if not control.images:
        raise InvalidRequest(f"{field}.images", 0, "at least one image")
    place_frames(
        f"{field}.frame_indices", control.frame_indices, len(control.images), num_frames
    )
    if control.start > control.end:
        raise InvalidRequest(
            f"{field}.start", control.start, f"at most end, {control.end:g}"
        )


def place_frames(
    field: str, frame_indices: Sequence[int], num_images: int, num_frames: int
) -> list[int]:
    """``frame_indices`` counted from the start; negative ones come counted from the end
    of ``num_frames``.

    Raises InvalidRequest for one that is outside the clip or given twice, and unless
    there is one an image.
    """
    indices = list(frame_indices)
    if not indices or len(indices) != num_images:
        raise InvalidRequest(field, indices, f"one for each of {num_images} images")
    for index in indices:
        if not -num_frames <= index < num_frames:
            raise InvalidRequest(field, index, f"{-num_frames} to {num_frames - 1}")
    frames = [index % num_frames for index in indices]
    if len(set(frames)) < len(frames):
        raise InvalidRequest(field, indices, "every frame once")
    return frames
