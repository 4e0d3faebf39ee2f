"""Decides every field that a job leaves out, and checks rules about several fields."""

import secrets
from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from .. import catalog
from ..errors import InvalidRequest
from .clip import MAX_WINDOW, Clip, ContextWindows, ControlFile, GenerationRequest
from .fields import Most, marker
from .frames import place_frames
from .validation import validated


def resolve(
    request: GenerationRequest,
    *,
    model: str,
    installed_motion: Collection[str],
    max_megapixel_steps: float,
) -> Clip:
    """``request`` for the base model ``model``, a name or a folder, fully decided.

    ``installed_motion``: the motion modules that can be used. A seed that is left out
    is drawn here, once. Raises InvalidRequest for combinations that cannot run.
    """
    motion_module = _motion_module(request, model, installed_motion)
    _check_version(request, motion_module)
    stated = {name: value for name, value in request if value is not None}
    clip = validated(
        Clip,
        {
            **_defaults(model, motion_module),
            **stated,
            "model": model,
            "motion_module": motion_module,
        },
    )
    _check_limits(clip)
    clip = _in_windows(clip, request)
    _check_work(clip, max_megapixel_steps)
    for i, control in enumerate(clip.controls):
        _check_control(f"controls.{i}", control, clip.num_frames)
    return clip


def defaults_by_model() -> dict[str, dict[str, Any]]:
    """Values of the fields that a job may leave out, by the base model's name."""
    return {name: asdict(row.defaults) for name, row in catalog.BASE_MODELS.items()}


def _motion_module(
    request: GenerationRequest, model: str, installed: Collection[str]
) -> str:
    """The motion module that ``request`` names, or the first installed of the model."""
    names = catalog.base_model(model).motion_modules
    if request.motion_module is None:
        return next((name for name in names if name in installed), names[0])
    if model in catalog.BASE_MODELS:
        _check_family(request.motion_module, model, names)
    return request.motion_module


def _check_family(motion_module: str, model: str, names: Collection[str]) -> None:
    if motion_module in catalog.MOTION_MODULES and motion_module not in names:
        allowed = f"for model {model}: one of {', '.join(names)}"
        raise InvalidRequest("motion_module", motion_module, allowed)


def _check_version(request: GenerationRequest, motion_module: str) -> None:
    row = catalog.MOTION_MODULES.get(motion_module)
    version = request.motion_module_version
    if row is not None and version not in (None, row.version):
        allowed = f"{row.version} for {motion_module}"
        raise InvalidRequest("motion_module_version", version, allowed)


def _defaults(model: str, motion_module: str) -> dict[str, Any]:
    """Values of the fields that a job may leave out."""
    row = catalog.MOTION_MODULES.get(motion_module)
    return {
        **asdict(catalog.base_model(model).defaults),
        **(row.defaults if row else {}),
        "seed": secrets.randbits(64),
    }


def _in_windows(clip: Clip, request: GenerationRequest) -> Clip:
    """Return ``clip`` with the windows that its length, or its loop, needs."""
    most = _most_frames(clip)
    context = clip.context
    if context is None and (clip.loop or clip.num_frames > most):
        context = ContextWindows()
    if context is None:
        return clip
    _check_window(context, clip.num_frames, most)
    if clip.loop:
        _check_loop(request)
        context = context.model_copy(update={"schedule": "looped"})
    return clip.model_copy(update={"context": context})


def _most_frames(clip: Clip) -> int:
    """The most frames of a window; of a file that is not known, the most of any."""
    version = clip.motion_module_version
    version = version or catalog.motion_module_version(clip.motion_module)
    config = catalog.MOTION_MODULE_VERSIONS.get(version or "")
    return MAX_WINDOW if config is None else config.max_length


def _check_window(context: ContextWindows, num_frames: int, most: int) -> None:
    if min(context.length, num_frames) > most:
        allowed = f"at most {most} with this motion module"
        raise InvalidRequest("context.length", context.length, allowed)
    if context.overlap >= context.length:
        allowed = f"fewer than context.length, {context.length}"
        raise InvalidRequest("context.overlap", context.overlap, allowed)


def _check_loop(request: GenerationRequest) -> None:
    context = request.context
    if context is None or "schedule" not in context.model_fields_set:
        return
    if context.schedule != "looped":
        raise InvalidRequest("context.schedule", context.schedule, "looped with loop")


def _check_limits(clip: Clip) -> None:
    for name, info in Clip.model_fields.items():
        limit = marker(info, Most)
        if limit is not None:
            _check_limit(clip, name, limit)


def _check_limit(clip: Clip, name: str, limit: Most) -> None:
    value, choice = getattr(clip, name), getattr(clip, limit.by)
    most = limit.of(choice)
    if value > most:
        known = choice in limit.limits  # of another file, only its content tells
        allowed = f"1 to {most} with {choice}" if known else f"1 to {most}"
        raise InvalidRequest(name, value, allowed)


def _check_work(clip: Clip, max_megapixel_steps: float) -> None:
    if clip.megapixel_steps > max_megapixel_steps:
        raise InvalidRequest(
            "num_frames, width, height, num_inference_steps",
            f"{clip.num_frames} x {clip.width} x {clip.height} x"
            f" {clip.num_inference_steps}"
            f" = {clip.megapixel_steps:.0f} megapixel steps",
            f"at most {max_megapixel_steps:g} megapixel steps here"
            f" (ANIMATEDIFF_MAX_MEGAPIXEL_STEPS)",
        )


def _check_control(field: str, control: ControlFile, num_frames: int) -> None:
    place_frames(
        f"{field}.frame_indices", control.frame_indices, len(control.images), num_frames
    )
    if control.start > control.end:
        allowed = f"at most end, {control.end:g}"
        raise InvalidRequest(f"{field}.start", control.start, allowed)
