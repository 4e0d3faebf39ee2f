"""The cost of a config's clips: ``animatediff make --config FILE --dry-run``."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import yaml

from ..engine import Engine
from ..errors import AssetError, CheckpointError, InvalidRequest
from ..families import DEFAULT
from ..families.unet_config import read_unet_config
from ..fetch.assets import Source
from ..job.clip import Clip
from ..job.files import named_files
from ..job.guidance import needs_unconditional
from .prompt_config import PlannedClip

STEP_TFLOP = 34.59
"""A guided step of the default family's model, 16 frames at 512x512.

``tests/test_full_size.py`` counts it.
"""
NOMINAL_TFLOP_PER_SECOND = 100.0
"""Turns counted work into seconds for comparison; no GPU was measured."""


@dataclass(frozen=True)
class Need:
    """A file that a clip needs, as one line of the plan."""

    place: str
    line: str
    is_missing: bool = False


def print_plan(engine: Engine, clips: list[PlannedClip]) -> int:
    """Print what would be loaded and made, entry by entry.

    Returns the number of files that are missing and cannot be fetched.
    """
    missing: set[str] = set()
    for entry, group in groupby(clips, key=lambda clip: clip.entry):
        planned = [(clip, engine.resolve(clip.request)) for clip in group]
        print(f"entry {entry}")
        for need in _needs(engine, planned[0][1]):
            print(f"  {need.place}: {need.line}")
            if need.is_missing:
                missing.add(need.line)
        for clip, resolved in planned:
            is_drawn = clip.request.seed is None
            print(f"  {_summary(resolved, is_drawn)}; {_work(engine, resolved)}")
    verdict = f"missing: {len(missing)}" if missing else "nothing is missing"
    print(f"{len(clips)} clips; {verdict}")
    return len(missing)


def _summary(clip: Clip, seed_is_drawn: bool) -> str:
    return (
        f"clip: {clip.num_frames} frames of {clip.width}x{clip.height},"
        f" {clip.num_frames / clip.fps:.1f} s, {clip.num_inference_steps}"
        f" steps of {clip.scheduler}, guidance {clip.guidance_scale:g},"
        f" seed {'drawn' if seed_is_drawn else clip.seed}"
    )


def _needs(engine: Engine, clip: Clip) -> Iterator[Need]:
    yield _model(engine, clip.model)
    for file in named_files(clip):
        yield _weight_file(engine, file.field, file.reference)
    for i, control in enumerate(clip.controls):
        for j, image in enumerate(control.images):
            place = f"controls.{i}.images.{j}"
            yield _image(engine, place, image, control.frame_indices[j])


def _model(engine: Engine, model: str) -> Need:
    try:
        folder = engine.assets.base_model_folder(model)
    except (AssetError, InvalidRequest) as error:
        return Need("model", f"MISSING: {error.message}", is_missing=True)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Need("model", _line(Source(model, folder, "here", size)))


def _weight_file(engine: Engine, place: str, reference: str) -> Need:
    try:
        return Need(place, _line(engine.assets.locate(reference, place)))
    except AssetError as error:
        reason = error.message.removeprefix(f"{place} ").removeprefix(f"{place}: ")
        return Need(place, f"MISSING: {reason}", is_missing=True)


def _image(engine: Engine, place: str, image: str, frame: int) -> Need:
    size = None
    if not image.startswith("https://"):
        size = len(engine.assets.picture(image, place))
    return Need(place, f"{image[:80]} ({_size(size)}), at frame {frame}")


def _line(source: Source) -> str:
    where = (
        f"here, {source.path}" if source.path else f"to be fetched from {source.origin}"
    )
    return f"{source.reference} ({_size(source.bytes)}), {where}"


def _size(count: int | None) -> str:
    return "size not known" if count is None else f"{count / 1e6:,.1f} MB"


def _work(engine: Engine, clip: Clip) -> str:
    """The UNet's work, scaled from the counted step.

    A lower bound for large frames: attention within a frame grows faster than its size.
    """
    if not _is_of_published_size(engine, clip.model):
        return f"work not counted: the model is not of {DEFAULT.name}'s size"
    passes = 2 if needs_unconditional(clip.guidance_scale) else 1
    counted_steps = clip.megapixel_steps * 1e6 / (512 * 512 * 16)
    work = STEP_TFLOP * counted_steps * passes / 2
    seconds = work / NOMINAL_TFLOP_PER_SECOND
    rate = f"{NOMINAL_TFLOP_PER_SECOND:g} TFLOP/s"
    return f"about {work:,.0f} TFLOP, {seconds:,.1f} s at {rate}"


def _is_of_published_size(engine: Engine, model: str) -> bool:
    """Whether the UNet has the counted widths; assumed of a model that is not here."""
    try:
        folder = engine.assets.base_model_folder(model)
        raw = yaml.safe_load((folder / "unet" / "config.json").read_text())
        config = read_unet_config(raw, DEFAULT)
    except (AssetError, InvalidRequest, CheckpointError, KeyError, TypeError):
        return True
    except yaml.YAMLError:
        return True
    return config.block_out_channels == DEFAULT.unet_config.block_out_channels
