"""``animatediff make --config FILE``: the clips of a YAML file of prompts.

Writes samples/<config>-<time>/sample/<i>-<prompt>.<format>, all clips in one picture
(sample.gif), the images of the controls, and config.yaml with the seeds that were used.
One engine makes all clips: between two of them, only weights that differ are exchanged.
"""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image

from .. import catalog
from ..checkpoints.detect import detect
from ..checkpoints.files import read_weights
from ..controls.pictures import fit_picture, normalize_picture
from ..engine import Engine
from ..errors import CheckpointError, EncodeError, InvalidRequest
from ..job.prepared import PreparedJob
from ..job.provenance import metadata_of, shown_fields
from ..job.result import Generated
from ..serving.progress import BarProgress
from ..video import OUTPUT_FORMATS, write_video
from ..video.clip import Video
from ..video.grid import save_videos_grid
from .environment import add_device_options, file_name, settings_of
from .inference_config import control_kind
from .plan import print_plan
from .prompt_config import Entry, PlannedClip, read_entries, requests

GRID_COLUMNS = 4
_PROMPTS = ("prompt", "n_prompt")
Shape = tuple[int, int, int, int]
"""Frames, height, width and frames a second of a clip."""


def main(arguments: Sequence[str] | None = None, prog: str = "animate") -> int:
    """Make the clips of a config, or show what they need.

    The exit status of a dry run is 1 if files are missing. Raises AnimateDiffError.
    """
    options = _options(arguments, prog)
    entries = read_entries(options.config)
    engine = Engine(settings_of(options))
    clips = list(_clips(entries, options))
    if options.dry_run:
        return 1 if print_plan(engine, clips) else 0
    _Run(entries, options, engine.settings.file_metadata).make(engine, clips)
    return 0


def _options(arguments: Sequence[str] | None, prog: str) -> argparse.Namespace:
    parser = _parser(prog)
    options = parser.parse_args(arguments)
    names = (name.strip() for name in options.format.split(","))
    options.formats = [name for name in names if name]
    if unknown := set(options.formats) - set(OUTPUT_FORMATS):
        listed = ", ".join(sorted(unknown))
        parser.error(f"--format: {listed}: there are {', '.join(OUTPUT_FORMATS)}")
    return options


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description="Make the clips of a YAML file of prompts."
    )
    parser.add_argument(
        "--config",
        type=Path,
        required=True,
        help="such as configs/prompts/0_shapeworld/....yaml",
    )
    parser.add_argument(
        "--pretrained-model-path",
        help="folder of an image model in diffusers' layout, or a model's name",
    )
    parser.add_argument(
        "--inference-config",
        default="configs/inference/inference-v1.yaml",
        help="for entries that have none",
    )
    parser.add_argument(
        "--L", type=int, help="frames, for entries without L (default: the model's, 16)"
    )
    parser.add_argument("--W", type=int, help="width, for entries without W (512)")
    parser.add_argument("--H", type=int, help="height, for entries without H (512)")
    parser.add_argument(
        "--format",
        default="gif,mp4",
        help=f"separated by commas: {', '.join(OUTPUT_FORMATS)}",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("samples"), help="folder (default: samples)"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="show what would be loaded and made, and stop",
    )
    add_device_options(parser)
    return parser


def _clips(entries: list[Entry], options: argparse.Namespace) -> Iterator[PlannedClip]:
    for i, entry in enumerate(entries):
        place = f"{options.config.name}, entry {i}"
        if entry.controlnet_config:
            control_kind(entry.controlnet_config)  # raises InvalidRequest
        for request in requests(_completed(entry, options), place):
            if request.controls and not entry.controlnet_config:
                raise InvalidRequest(
                    f"{place}: controlnet_config",
                    None,
                    "the config of controlnet_path's branch",
                )
            yield PlannedClip(i, request)


def _completed(entry: Entry, options: argparse.Namespace) -> Entry:
    """``entry`` with the command line's values in place of its missing ones."""
    fallbacks = {
        "inference_config": options.inference_config,
        "pretrained_model_path": options.pretrained_model_path or catalog.DEFAULT_MODEL,
        "W": options.W,
        "H": options.H,
        "L": options.L,
    }
    values = {key: getattr(entry, key) or value for key, value in fallbacks.items()}
    return entry.model_copy(update=values)


class _Run:
    """One run over a config: its folder, and what it has made so far."""

    def __init__(
        self, entries: list[Entry], options: argparse.Namespace, file_metadata: str
    ) -> None:
        self._file_metadata = file_metadata
        stamp = time.strftime("%Y-%m-%dT%H-%M-%S")
        self._folder: Path = options.output / f"{options.config.stem}-{stamp}"
        self._entries = entries
        self._formats: list[str] = options.formats
        self._seeds: dict[int, list[int]] = {}
        self._made: dict[Shape, list[torch.Tensor]] = {}
        self._pictures = 0

    def make(self, engine: Engine, clips: Sequence[PlannedClip]) -> None:
        """Make all clips, and print the paths of their files."""
        (self._folder / "sample").mkdir(parents=True, exist_ok=True)
        for number, clip in enumerate(clips):
            job = engine.prepare(clip.request)
            if clip.entry not in self._seeds:
                self._begin_entry(clip.entry, job)
            print(f"[{number + 1}/{len(clips)}] {clip.request.prompt}", file=sys.stderr)
            bar = BarProgress()
            generated = engine.generate(job, bar)
            self._keep(number, clip, generated)
        _print_paths(_save_grids(self._made, self._folder))

    def _begin_entry(self, entry: int, job: PreparedJob) -> None:
        _check_branches(job, self._entries[entry])
        folder = self._folder / "control_images"
        for image in _control_images(job):
            folder.mkdir(exist_ok=True)
            image.save(folder / f"{self._pictures}.png")
            self._pictures += 1

    def _keep(self, number: int, clip: PlannedClip, generated: Generated) -> None:
        stem = self._folder / "sample" / f"{number}-{file_name(clip.request.prompt)}"
        metadata = metadata_of(generated, self._file_metadata)
        _print_paths(_write(generated.video, stem, self._formats, metadata))
        for warning in generated.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        frames = torch.as_tensor(generated.video.frames).permute(3, 0, 1, 2)  # c f h w
        _, num_frames, height, width = frames.shape
        shape = (num_frames, height, width, generated.video.fps)
        self._made.setdefault(shape, []).append(frames)
        self._seeds.setdefault(clip.entry, []).append(generated.clip.seed)
        _save_config(self._folder / "config.yaml", self._entries, self._seeds)


def _print_paths(paths: Iterable[Path]) -> None:
    for path in paths:
        print(path)


def _check_branches(job: PreparedJob, entry: Entry) -> None:
    """Compare ``controlnet_config`` with the kind of the control's file."""
    if not entry.controlnet_config:
        return
    described = control_kind(entry.controlnet_config)
    for file in job.files.controls:
        name = file.name
        content = detect(read_weights(file), name)
        if (content.kind, content.version) != ("SparseCtrl", described):
            raise CheckpointError(
                f"{name} is {content.kind} {content.version};"
                f" {entry.controlnet_config} describes SparseCtrl {described}",
                file=name,
            )


def _control_images(job: PreparedJob) -> Iterator[Image.Image]:
    """The images of the controls as the frames see them."""
    for control, pictures in zip(job.clip.controls, job.pictures, strict=True):
        for picture in pictures:
            pixels = fit_picture(picture, job.clip.width, job.clip.height)
            if control.normalize:
                pixels = normalize_picture(pixels)
            array = (pixels * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
            yield Image.fromarray(array)


def _write(
    video: Video, stem: Path, formats: Iterable[str], metadata: dict[str, Any]
) -> Iterator[Path]:
    for name in formats:
        path = stem.with_name(f"{stem.name}{OUTPUT_FORMATS[name].suffix}")
        write_video(video, path, format=name, metadata=metadata)
        yield path


def _save_grids(made: dict[Shape, list[torch.Tensor]], folder: Path) -> Iterator[Path]:
    """All clips of one shape side by side.

    The files have the published script's name, sample, if there is one shape.
    """
    rates = {fps for *_, fps in made}
    for (num_frames, height, width, fps), clips in made.items():
        name = "sample" if len(made) == 1 else f"sample-{width}x{height}x{num_frames}"
        if len(rates) > 1:
            name += f"-{fps}fps"
        for suffix in (".gif", ".mp4"):
            path = folder / f"{name}{suffix}"
            save_videos_grid(torch.stack(clips), path, n_rows=GRID_COLUMNS, fps=fps)
            yield path


def _save_config(path: Path, entries: list[Entry], seeds: dict[int, list[int]]) -> None:
    content: list[dict[str, Any]] = [
        {
            **shown_fields(entries[i].model_dump(exclude_defaults=True), _PROMPTS),
            "random_seed": seeds[i],
        }
        for i in sorted(seeds)
    ]
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise EncodeError(
            f"{path.name} could not be written: {error.strerror}"
        ) from error
