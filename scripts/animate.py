"""Clips from a YAML file of prompts: python -m scripts.animate --config
configs/prompts/....yaml

Writes samples/<config>-<time>/sample/<i>-<prompt>.<format>, all clips in one picture
(sample.gif), the images that controls were given, and config.yaml with the seeds that
were used. One engine makes them all: between two clips only the weights that differ are
exchanged.
"""

import argparse
import re
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image

from animatediff.checkpoints.detect import detect
from animatediff.checkpoints.files import read_weights
from animatediff.controls.pictures import fit_picture, normalize_picture
from animatediff.engine import Engine, Generated, PreparedJob
from animatediff.errors import (
    AnimateDiffError,
    CheckpointError,
    EncodeError,
    InvalidRequest,
)
from animatediff.progress import Progress
from animatediff.provenance import metadata_of
from animatediff.serving.progress import BarProgress
from animatediff.settings import Settings
from animatediff.video import OUTPUT_FORMATS, write_video
from animatediff.video.grid import save_videos_grid

from .animate_plan import print_plan
from .prompt_config import Entry, PlannedClip, control_kind, read_entries, requests

GRID_COLUMNS = 4


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    try:
        entries = read_entries(options.config)
        settings = _settings(options)
        clips = list(_clips(entries, options))
        engine = Engine(settings)
        if options.dry_run:
            return 1 if print_plan(engine, clips) else 0
        return _run(engine, entries, clips, options)
    except AnimateDiffError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what is written so far stays", file=sys.stderr)
        return 130


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.animate",
        description="Clips from a YAML file of prompts.",
    )
    parser.add_argument(
        "--config",
        type=Path,
        required=True,
        help="such as configs/prompts/0_shapeworld/....yaml",
    )
    parser.add_argument(
        "--pretrained-model-path",
        help="folder of an SD 1.5 model in diffusers' layout, or a model's name",
    )
    parser.add_argument(
        "--inference-config",
        default="configs/inference/inference-v1.yaml",
        help="of entries without",
    )
    parser.add_argument(
        "--L",
        type=int,
        help="frames, of entries that say none (default: the model's, 16)",
    )
    parser.add_argument("--W", type=int, help="width in pixels, likewise (512)")
    parser.add_argument("--H", type=int, help="height in pixels, likewise (512)")
    parser.add_argument(
        "--without-xformers",
        action="store_true",
        help="PyTorch's own attention, whatever is set",
    )
    parser.add_argument(
        "--format",
        default="gif,mp4",
        help=f"with commas: {', '.join(OUTPUT_FORMATS)}",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("samples"), help="folder (default: samples)"
    )
    parser.add_argument(
        "--device",
        help="such as cuda or cpu (default: ANIMATEDIFF_DEVICE, or what there is)",
    )
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"))
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say what would be loaded and made, and stop",
    )
    options = parser.parse_args(arguments)
    options.formats = [
        name.strip() for name in options.format.split(",") if name.strip()
    ]
    if unknown := set(options.formats) - set(OUTPUT_FORMATS):
        parser.error(
            f"--format: {', '.join(sorted(unknown))}: there are"
            f" {', '.join(OUTPUT_FORMATS)}"
        )
    return options


def _settings(options: argparse.Namespace) -> Settings:
    given: dict[str, Any] = {"any_path": True, "input_dir": Path()}
    if options.device:
        given["device"] = options.device
    if options.dtype:
        given["dtype"] = options.dtype
    if options.without_xformers:
        given["attention_backend"] = "sdpa"
    return Settings.from_env().replace(**given)


def _clips(entries: list[Entry], options: argparse.Namespace) -> Iterator[PlannedClip]:
    for i, entry in enumerate(entries):
        kind = (
            control_kind(entry.controlnet_config) if entry.controlnet_config else None
        )
        given = {
            "inference_config": entry.inference_config or options.inference_config,
            "pretrained_model_path": entry.pretrained_model_path
            or options.pretrained_model_path
            or "sd15",
            "W": entry.W or options.W,
            "H": entry.H or options.H,
            "L": entry.L or options.L,
        }
        place = f"{options.config.name}, entry {i}"
        for request in requests(entry.model_copy(update=given), place):
            if kind is None and request.controls:
                raise InvalidRequest(
                    f"{place}: controlnet_config",
                    None,
                    "the config of controlnet_path's branch",
                )
            yield PlannedClip(i, request)


def _run(
    engine: Engine, entries: list[Entry], clips: list[PlannedClip], options: argparse.Namespace
) -> int:
    folder = (
        options.output / f"{options.config.stem}-{time.strftime('%Y-%m-%dT%H-%M-%S')}"
    )
    (folder / "sample").mkdir(parents=True, exist_ok=True)
    seeds: dict[int, list[int]] = {}
    made: dict[tuple[int, ...], list[torch.Tensor]] = {}
    pictures = 0
    for number, clip in enumerate(clips):
        job = engine.prepare(clip.request)
        if clip.entry not in seeds:
            _check_branches(job, entries[clip.entry])
            pictures = _save_pictures(job, folder / "control_images", pictures)
        print(f"[{number + 1}/{len(clips)}] {clip.request.prompt}", file=sys.stderr)
        bar = BarProgress()
        generated = engine.generate(
            job, lambda step, total: bar(Progress("denoise", step, total))
        )
        for path in _write(
            generated,
            folder / "sample" / f"{number}-{file_name(clip.request.prompt)}",
            options,
        ):
            print(path)
        for warning in generated.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        frames = torch.from_numpy(generated.video.frames).permute(3, 0, 1, 2)  # c f h w
        made.setdefault((*frames.shape[1:], generated.video.fps), []).append(frames)
        seeds.setdefault(clip.entry, []).append(generated.request.seed)
        _save_config(folder / "config.yaml", entries, seeds)
    for path in _save_grids(made, folder):
        print(path)
    return 0


def _check_branches(job: PreparedJob, entry: Entry) -> None:
    """Hold ``controlnet_config`` against the file, which says by itself what it is."""
    for path in job.controls if entry.controlnet_config else ():
        found, wanted = (
            detect(read_weights(path), path.name),
            control_kind(entry.controlnet_config or ""),
        )
        if (found.kind, found.version) != ("SparseCtrl", wanted):
            raise CheckpointError(
                f"{path.name} is {found.kind} {found.version};"
                f" {entry.controlnet_config} describes SparseCtrl {wanted}",
                file=path.name,
            )


def _save_pictures(job: PreparedJob, folder: Path, first: int) -> int:
    """The images of the controls as the frames see them. Returns the number of the next
    one.
    """
    for control, images in zip(job.request.controls, job.pictures, strict=True):
        folder.mkdir(exist_ok=True)
        for picture in images:
            pixels = fit_picture(picture, job.request.width, job.request.height)
            pixels = normalize_picture(pixels) if control.normalize else pixels
            array = (pixels * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
            Image.fromarray(array).save(folder / f"{first}.png")
            first += 1
    return first


def _write(
    generated: Generated, stem: Path, options: argparse.Namespace
) -> Iterable[Path]:
    for name in options.formats:
        path = stem.with_name(f"{stem.name}{OUTPUT_FORMATS[name].suffix}")
        write_video(generated.video, path, format=name, metadata=metadata_of(generated))
        yield path


def file_name(prompt: str) -> str:
    """The first ten words of a prompt, as a file's name."""
    words = "-".join(re.sub(r"[^\w .,()'+-]", "", prompt).split()[:10])
    return words.encode()[:120].decode(errors="ignore").strip(".-") or "clip"


def _save_grids(
    made: dict[tuple[int, ...], list[torch.Tensor]], folder: Path
) -> Iterator[Path]:
    """All clips of one size side by side; one file if there is one size, as the
    published script writes it.
    """
    for (num_frames, height, width, fps), clips in made.items():
        name = "sample" if len(made) == 1 else f"sample-{width}x{height}x{num_frames}"
        name += "" if len({shape[3] for shape in made}) == 1 else f"-{fps}fps"
        for suffix in (".gif", ".mp4"):
            path = folder / f"{name}{suffix}"
            save_videos_grid(torch.stack(clips), path, n_rows=GRID_COLUMNS, fps=fps)
            yield path


def _save_config(path: Path, entries: list[Entry], seeds: dict[int, list[int]]) -> None:
    content = [
        {**entry.model_dump(exclude_defaults=True), "random_seed": seeds[i]}
        for i, entry in enumerate(entries)
        if i in seeds
    ]
    try:
        path.write_text(
            yaml.safe_dump(content, sort_keys=False, allow_unicode=True),
            encoding="utf-8",
        )
    except OSError as error:
        raise EncodeError(
            f"{path.name} could not be written: {error.strerror}"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
