"""What the clips of a config need: ``animatediff make --config FILE --dry-run``."""

from collections.abc import Iterator
from itertools import groupby

import yaml

from ..config import SD15, unet_config_from_diffusers
from ..engine import Engine, named_files
from ..errors import AssetError, CheckpointError, InvalidRequest
from ..fetch.assets import Source
from ..job.clip import Clip
from .prompt_config import PlannedClip

STEP_TFLOP = 35.25
"""Of one guided step of SD 1.5 at 512x512, 16 frames: counted by pytest -s
tests/test_full_size.py.
"""
NOMINAL_TFLOP_PER_SECOND = 100.0
"""Only to turn counted work into seconds that can be compared; no GPU was measured."""


def print_plan(engine: Engine, clips: list[PlannedClip]) -> int:
    """Print it, entry by entry. Returns how many files are missing that cannot be
    fetched.
    """
    missing: set[str] = set()
    for entry, group in groupby(clips, key=lambda clip: clip.entry):
        own = [(clip, engine.resolve(clip.request)) for clip in group]
        print(f"entry {entry}")
        for place, line, is_missing in _sources(engine, own[0][1]):
            print(f"  {place}: {line}")
            if is_missing:
                missing.add(line)
        for clip, request in own:
            print(f"  {_clip(clip, request)}; {_work(engine, request)}")
    print(
        f"{len(clips)} clips;"
        f" {f'missing: {len(missing)}' if missing else 'nothing is missing'}"
    )
    return len(missing)


def _clip(clip: PlannedClip, request: Clip) -> str:
    return (
        f"clip: {request.num_frames} frames of {request.width}x{request.height},"
        f" {request.num_frames / request.fps:.1f} s, {request.num_inference_steps}"
        f" steps of {request.scheduler},"
        f" guidance {request.guidance_scale:g}, seed"
        f" {'drawn' if clip.request.seed is None else request.seed}"
    )


def _sources(engine: Engine, request: Clip) -> Iterator[tuple[str, str, bool]]:
    """Place, line and whether it is missing, of everything that ``request`` needs."""
    try:
        folder = engine.assets.base_model_folder(request.model)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        yield "model", _line(Source(request.model, folder, "here", size)), False
    except (AssetError, InvalidRequest) as error:
        yield "model", f"MISSING: {error.message}", True
    for place, reference in named_files(request).items():
        try:
            yield place, _line(engine.assets.locate(reference, place)), False
        except AssetError as error:
            yield (
                place,
                f"MISSING:"
                f" {error.message.removeprefix(f'{place} ').removeprefix(f'{place}: ')}",
                True,
            )
    for i, control in enumerate(request.controls):
        for j, image in enumerate(control.images):
            place = f"controls.{i}.images.{j}"
            size = (
                None
                if image.startswith("https://")
                else len(engine.assets.picture(image, place))
            )
            yield (
                place,
                f"{image[:80]} ({_size(size)}), at frame {control.frame_indices[j]}",
                False,
            )


def _line(source: Source) -> str:
    where = (
        f"here, {source.path}" if source.path else f"to be fetched from {source.origin}"
    )
    return f"{source.reference} ({_size(source.bytes)}), {where}"


def _size(count: int | None) -> str:
    return "size not known" if count is None else f"{count / 1e6:,.1f} MB"


def _work(engine: Engine, request: Clip) -> str:
    """The UNet's share, by its linear part: attention within a frame grows faster with
    its size.
    """
    try:
        config = engine.assets.base_model_folder(request.model) / "unet" / "config.json"
        widths = unet_config_from_diffusers(
            yaml.safe_load(config.read_text())
        ).block_out_channels
    except (
        AssetError,
        InvalidRequest,
        CheckpointError,
        KeyError,
        TypeError,
        yaml.YAMLError,
    ):
        widths = SD15.block_out_channels
    if widths != SD15.block_out_channels:
        return "work not counted: the model is not of SD 1.5's size"
    passes = 2 if request.guidance_scale > 1 else 1
    work = STEP_TFLOP * request.megapixel_steps * 1e6 / (512 * 512 * 16) * passes / 2
    return f"about {work:,.0f} TFLOP, {work / NOMINAL_TFLOP_PER_SECOND:,.1f} s at {NOMINAL_TFLOP_PER_SECOND:g} TFLOP/s"
