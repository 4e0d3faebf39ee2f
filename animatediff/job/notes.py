"""The warnings of a job: a wish that is not fulfilled, or one with a poor result.

They follow from the decided fields alone, so they are known before any file is read.
"""

from collections.abc import Iterator

from .. import catalog
from ..families.base import MotionModule
from .clip import Clip, GenerationRequest
from .foreign_words import foreign_words_warning
from .guidance import needs_unconditional

SHORT_WINDOW = 8
"""Frames of a window that is too short for good motion."""
_CONSISTENCY = "lcm"
"""The scheduler for consistency models, and a part of the names of their files."""


def job_notes(clip: Clip, request: GenerationRequest) -> tuple[str, ...]:
    """Return the warnings that follow from the fields of ``clip``.

    ``request`` is the job that it was decided from.
    """
    return (
        *_window_notes(clip, request),
        *_model_notes(clip),
        *_prompt_notes(clip),
        *_motion_notes(clip),
        *_preview_notes(clip),
    )


def _model_notes(clip: Clip) -> Iterator[str]:
    row = catalog.BASE_MODELS.get(clip.model)
    if row and row.note:
        yield row.note


def _window_notes(clip: Clip, request: GenerationRequest) -> Iterator[str]:
    context = clip.context
    if context is None:
        return
    if request.context is None and not clip.loop:
        share = context.frames_a_step(clip.num_frames) / clip.num_frames
        yield (
            f"num_frames {clip.num_frames} is more than {clip.motion_module} can take:"
            f" the clip was made in windows of {context.length} frames, with"
            f" {share:.2f} times the work of a frame; context says how"
        )
    length = context.layout(clip.num_frames).length
    if length <= SHORT_WINDOW < clip.num_frames:
        yield (
            f"context.length {length} is short: motion modules were trained on more"
            " frames, and windows of up to 8 look worse"
        )


def _prompt_notes(clip: Clip) -> Iterator[str]:
    if clip.negative_prompt.strip() and not needs_unconditional(clip.guidance_scale):
        yield (
            "negative_prompt has no effect, nor have textual inversions in it:"
            f" guidance_scale is {clip.guidance_scale:g}, and only above 1 is there"
            " guidance"
        )
    for field in ("prompt", "negative_prompt"):
        warning = foreign_words_warning(field, getattr(clip, field))
        if warning:
            yield warning


def _motion_notes(clip: Clip) -> Iterator[str]:
    row = catalog.motion_module_row(clip.motion_module)
    if row is None:
        return
    yield from _companion_notes(clip, row)
    if row.most_steps is not None:
        yield from _distilled_notes(clip, row, row.most_steps)
    elif clip.scheduler == _CONSISTENCY and not _names_consistency_model(clip):
        yield (
            f"scheduler {clip.scheduler} is for consistency models, and"
            f" {clip.motion_module} is none; ddim is its scheduler"
        )


def _preview_notes(clip: Clip) -> Iterator[str]:
    steps = clip.num_inference_steps
    if clip.preview is not None and clip.preview.every > steps:
        yield (
            f"there was no preview: preview.every is {clip.preview.every}, and the"
            f" clip has {steps} steps"
        )


def _companion_notes(clip: Clip, row: MotionModule) -> Iterator[str]:
    for companion in row.companions:
        name = catalog.file_name(companion.file)
        if name not in {catalog.file_name(lora.path) for lora in clip.loras}:
            yield (
                f"{clip.motion_module} was made to go with the LoRA {name} at strength"
                f" {companion.strength:g}, which loras does not name"
            )


def _distilled_notes(clip: Clip, row: MotionModule, most_steps: int) -> Iterator[str]:
    """Settings that a distilled module was not made for."""
    scheduler = row.defaults.get("scheduler", clip.scheduler)
    if clip.scheduler != scheduler:
        yield (
            f"{clip.motion_module} was distilled for scheduler {scheduler}, not"
            f" {clip.scheduler}"
        )
    if clip.num_inference_steps > most_steps:
        yield (
            f"{clip.motion_module} was distilled for at most {most_steps} steps, not"
            f" {clip.num_inference_steps}"
        )


def _names_consistency_model(clip: Clip) -> bool:
    """Whether another file of the job says by its name that it is one."""
    paths = [clip.model, clip.dreambooth or "", *(lora.path for lora in clip.loras)]
    return any(_CONSISTENCY in path.lower() for path in paths)
