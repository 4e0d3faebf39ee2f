"""Measure how often clips of the embedded family show the scene of their prompt.

No training clip had these prompts. The judge reads the frames.

    python -m lab.evaluate                         # all suites that are installed
    python -m lab.evaluate scenes lcm_4 --clips 2  # some, with two seeds a prompt

Shares come with their 95 % interval (Wilson's), other figures with the mean's. With
--require the exit code is 1 if a target is missed.
"""

import argparse
import base64
import io
import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from animatediff.catalog import BASE_MODELS
from animatediff.engine import Engine
from animatediff.job.clip import ControlFile, GenerationRequest, LoraFile
from animatediff.settings import Settings
from lab.contact_sheet import contact_sheet
from lab.shapeworld import world
from lab.shapeworld.judge import Reading, read
from lab.shapeworld.scene import CAMERAS, COLOURS, DIRECTIONS, SHAPES, Scene, Thing

Measures = Mapping[str, float]
"""The figures of one clip: 1 for right, 0 for wrong, other numbers as they are."""

FOLDER = "shapeworld"
STATED = ("colour", "shape", "background", "motion")
STRENGTHS = (0.0, 0.5, 1.0)
SHEET_COLUMNS, SHEET_ROWS = 8, 14
TARGETS = {
    "colour": 0.97,
    "shape": 0.92,
    "motion": 0.92,
    "kept in all frames": 0.95,
    "moved its way": 0.85,
    "more with strength": 0.85,
    "first frame, dB": 22.0,
}

ALLOWED_LOSS = 0.05
"""A distilled model's figures may be lower than its teacher's by this."""


@dataclass(frozen=True)
class Case:
    """Clips to generate together, and the function that measures them.

    It can be pickled: other processes run some cases.
    """

    requests: tuple[GenerationRequest, ...]
    measure: Callable[[Sequence[np.ndarray]], Measures]


@dataclass(frozen=True)
class Suite:
    """Cases that measure some files of the family.

    ``files``, below the family's folder, must be installed. ``compared_with``: a suite
    whose figures this one may miss by ``ALLOWED_LOSS``, if that was evaluated before.
    """

    files: tuple[str, ...]
    cases: Callable[[int], Iterator[Case]]
    targets: Mapping[str, float]
    compared_with: str | None = None

    def targets_after(self, figures: Sequence["Figure"]) -> Mapping[str, float]:
        """Return ``targets``, and those that follow from other suites' ``figures``."""
        targets = dict(self.targets)
        for row in figures:
            if row.suite == self.compared_with and row.measure in _SCENE_TARGETS:
                targets[row.measure] = row.value - ALLOWED_LOSS
        return targets


def right_about(
    scene: Scene, reading: Reading | None, names: Sequence[str] = STATED
) -> dict[str, float]:
    """Return 1 for each of ``names`` that was read as ``scene`` has it, else 0.

    Without a reading all are wrong.
    """
    return {
        name: float(
            reading is not None and getattr(reading.scene, name) == getattr(scene, name)
        )
        for name in names
    }


def scene_measures(scene: Scene, clips: Sequence[np.ndarray]) -> Measures:
    """Return whether the clip shows ``scene``, and how fast it moves if it should."""
    reading = read(clips[0])
    right = right_about(scene, reading)
    measures = {
        **right,
        "all four": float(all(right.values())),
        "kept in all frames": float(bool(reading and reading.kept == 1)),
    }
    if reading and scene.motion in DIRECTIONS:
        measures["pixels a frame"] = reading.speed
    return measures


def scenes(clips: int, **changes: object) -> Iterator[Case]:
    """Yield every held-out scene, with ``clips`` seeds."""
    for seed in range(clips):
        for number, scene in enumerate(world.held_out_scenes()):
            request = GenerationRequest(
                prompt=scene.prompt, model=FOLDER, seed=1000 * seed + number
            )
            changed = request.model_copy(update=changes)
            yield Case((changed,), partial(scene_measures, scene))


def camera_measures(move: str, clips: Sequence[np.ndarray]) -> Measures:
    """Return whether the last clip shows the camera's move, and each more of it."""
    readings = [read(clip) for clip in clips]
    last = readings[-1]
    if any(reading is None for reading in readings) or last is None:
        return {"moved its way": 0.0, "more with strength": 0.0}
    amounts = [reading.camera.amount(move) for reading in readings if reading]
    rising = all(less < more for less, more in pairwise(amounts))
    return {
        "moved its way": float(last.camera.move == move),
        "more with strength": float(rising),
    }


def camera(clips: int, move: str, file: str) -> Iterator[Case]:
    """Yield still scenes, with the MotionLoRA of ``move`` at rising strengths."""
    still = [scene for scene in world.held_out_scenes() if scene.motion == "still"]
    for seed in range(clips):
        for number, scene in enumerate(still):
            others = [colour for colour in COLOURS if colour != scene.colour]
            if move.startswith("roll"):  # what turns is seen by two
                shape = SHAPES[number % len(SHAPES)]
                scene = replace(scene, other=Thing(others[number % len(others)], shape))
            request = GenerationRequest(
                prompt=scene.prompt, model=FOLDER, seed=1000 * seed + number
            )
            stacks = [
                (LoraFile(path=f"{FOLDER}/{file}", strength=strength),)
                for strength in STRENGTHS
            ]
            yield Case(
                tuple(request.model_copy(update={"loras": loras}) for loras in stacks),
                partial(camera_measures, move),
            )


def control_measures(
    scene: Scene, picture: np.ndarray | None, clips: Sequence[np.ndarray]
) -> Measures:
    """Return whether the clip shows ``scene``, and how near frame 0 is to ``picture``.

    ``picture``: (h, w, 3), uint8.
    """
    measures = right_about(scene, read(clips[0]), ("colour", "shape", "motion"))
    if picture is None:
        return measures
    error = np.mean((clips[0][0] / 255.0 - picture / 255.0) ** 2)
    return {**measures, "first frame, dB": float(-10 * np.log10(error))}


def control(clips: int, file: str, scribble: bool) -> Iterator[Case]:
    """Yield held-out scenes with the drawn first frame, or its sketch, as control."""
    for seed in range(clips):
        for number, scene in enumerate(world.held_out_scenes()):
            rng = world.generator(seed, "held_out", number)
            bodies = world.stage(scene, rng)
            frame = (
                (world.draw(bodies, scene.background)[0] * 255).round().astype(np.uint8)
            )
            shown = (
                (world.scribbles(bodies)[0] * 255).round().astype(np.uint8)
                if scribble
                else frame
            )
            request = GenerationRequest(
                prompt=scene.prompt, model=FOLDER, seed=1000 * seed + number
            )
            reference = ControlFile(
                path=f"{FOLDER}/{file}", images=(_as_base64(shown),)
            )
            measure = partial(control_measures, scene, None if scribble else frame)
            yield Case(
                (request.model_copy(update={"controls": (reference,)}),), measure
            )


def _as_base64(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).convert("RGB").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def style_measures(name: str, value: object, clips: Sequence[np.ndarray]) -> Measures:
    """Return whether ``name`` is read as ``value`` with a change, and without it."""
    before, after = (getattr(read(clip), name, None) for clip in clips)
    return {
        "changed as it should": float(after == value),
        "so already without": float(before == value),
    }


def changed(clips: int, name: str, value: object, **changes: object) -> Iterator[Case]:
    """Yield held-out scenes without and with ``changes``.

    They make the judge read ``name`` as ``value``.
    """
    for case in scenes(clips):
        (plain,) = case.requests
        yield Case(
            (plain, plain.model_copy(update=changes)),
            partial(style_measures, name, value),
        )


def _lora(file: str) -> dict[str, object]:
    return {"loras": (LoraFile(path=f"{FOLDER}/{file}"),)}


_SCENE_TARGETS = {
    name: TARGETS[name] for name in ("colour", "shape", "motion", "kept in all frames")
}
_CAMERA_TARGETS = {
    name: TARGETS[name] for name in ("moved its way", "more with strength")
}

SUITES: Mapping[str, Suite] = {
    "scenes": Suite(("motion_module_v3.safetensors",), scenes, _SCENE_TARGETS),
    "scenes_v2": Suite(
        ("motion_module_v2.safetensors",),
        partial(scenes, motion_module="shapeworld_v2"),
        _SCENE_TARGETS,
    ),
    **{
        f"lcm_{steps}": Suite(
            ("motion_module_lcm.safetensors",),
            partial(scenes, motion_module="shapeworld_lcm", num_inference_steps=steps),
            {},
            "scenes",
        )
        for steps in (4, 8)
    },
    **{
        f"camera_{move}": Suite(
            (f"motion_lora_{move}.safetensors",),
            partial(camera, move=move, file=f"motion_lora_{move}.safetensors"),
            _CAMERA_TARGETS,
        )
        for move in CAMERAS
    },
    "sparsectrl_rgb": Suite(
        ("sparsectrl_rgb.safetensors",),
        partial(control, file="sparsectrl_rgb.safetensors", scribble=False),
        {name: TARGETS[name] for name in ("motion", "first frame, dB")},
    ),
    "sparsectrl_scribble": Suite(
        ("sparsectrl_scribble.safetensors",),
        partial(control, file="sparsectrl_scribble.safetensors", scribble=True),
        {},
    ),
    "domain_adapter": Suite(
        ("domain_adapter.safetensors",),
        partial(
            changed,
            name="watermark",
            value=True,
            **_lora("domain_adapter.safetensors"),
        ),
        {},
    ),
    "style_lora": Suite(
        ("style_lora.safetensors",),
        partial(
            changed, name="style", value="outline", **_lora("style_lora.safetensors")
        ),
        {},
    ),
    "dreambooth": Suite(
        ("dreambooth.safetensors",),
        partial(
            changed,
            name="style",
            value="sepia",
            dreambooth=f"{FOLDER}/dreambooth.safetensors",
        ),
        {},
    ),
}


@dataclass(frozen=True)
class Figure:
    """One row of the table. ``low`` and ``high`` bound it with 95 % confidence."""

    suite: str
    measure: str
    value: float
    low: float
    high: float
    count: int
    target: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the value reaches the target; None without a target."""
        return None if self.target is None else self.value >= self.target


def figure(
    suite: str, measure: str, values: Sequence[float], target: float | None
) -> Figure:
    """Return the mean of ``values`` with its interval.

    It is Wilson's interval for shares, the normal one for other numbers.
    """
    n, mean, z = len(values), float(np.mean(values)), 1.96
    if set(values) <= {0.0, 1.0}:
        centre, spread = (
            mean + z * z / (2 * n),
            z * np.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n)),
        )
        low, high = (
            (centre - spread) / (1 + z * z / n),
            (centre + spread) / (1 + z * z / n),
        )
    else:
        spread = z * np.std(values) / np.sqrt(n)
        low, high = mean - spread, mean + spread
    return Figure(suite, measure, mean, float(low), float(high), n, target)


def not_installed(models_dir: Path) -> dict[str, str]:
    """Return the suites that cannot run, and the file that each lacks."""
    family = models_dir / FOLDER
    return {
        name: file
        for name, suite in SUITES.items()
        for file in suite.files
        if not (family / file).is_file()
    }


def run_case(engine: Engine, case: Case) -> tuple[Measures, np.ndarray]:
    """Return the measures of ``case``'s clips, and the last clip."""
    made = [
        engine.generate(engine.prepare(request)).video.frames
        for request in case.requests
    ]
    return case.measure(made), made[-1]


class _Elsewhere:
    """One process of several, each with an engine."""

    engine: Engine

    @classmethod
    def begin(cls, settings: Settings, threads: int) -> None:
        torch.set_num_threads(threads)
        cls.engine = Engine(settings)

    @classmethod
    def run_case(cls, case: Case) -> tuple[Measures, np.ndarray]:
        return run_case(cls.engine, case)


def in_fewer_steps(case: Case, most: int) -> Case:
    """Return ``case``, with no clip in more sampling steps than ``most``."""
    usual = BASE_MODELS["shapeworld"].defaults.num_inference_steps
    requests: list[GenerationRequest] = []
    for request in case.requests:
        steps = min(request.num_inference_steps or usual, most)
        requests.append(request.model_copy(update={"num_inference_steps": steps}))
    return replace(case, requests=tuple(requests))


def run_cases(
    engine: Engine, name: str, cases: Sequence[Case], processes: int
) -> Iterator[tuple[Measures, np.ndarray]]:
    """Run ``cases`` by ``engine``, or by several processes with the same settings.

    ``name`` labels the progress bar.
    """
    progress = partial(
        tqdm, total=len(cases), desc=name, unit="case", disable=not sys.stderr.isatty()
    )
    if processes == 1:
        yield from progress(run_case(engine, case) for case in cases)
        return
    threads = max(1, (os.cpu_count() or 1) // processes)
    started = {"mp_context": get_context("spawn"), "initializer": _Elsewhere.begin}
    with ProcessPoolExecutor(
        processes, **started, initargs=(engine.settings, threads)
    ) as pool:
        yield from progress(pool.map(_Elsewhere.run_case, cases))


def one_each(engine: Engine) -> int:
    """Return the best number of processes: 1 on a GPU, else one for each CPU.

    At most 8.
    """
    return min(os.cpu_count() or 1, 8) if engine.device.type == "cpu" else 1


def evaluate(
    engine: Engine,
    name: str,
    clips: int,
    every: int = 1,
    before: Sequence[Figure] = (),
    processes: int = 1,
    most_steps: int | None = None,
) -> tuple[list[Figure], list[np.ndarray]]:
    """Return all figures of the suite ``name``, and the first clips.

    ``every``: run each ``every``th case. ``before``: figures of suites that were
    evaluated already. ``most_steps``: the most sampling steps of a clip.
    """
    values: dict[str, list[float]] = defaultdict(list)
    shown = []
    cases = list(SUITES[name].cases(clips))[::every]
    if most_steps:
        cases = [in_fewer_steps(case, most_steps) for case in cases]
    for measures, clip in run_cases(engine, name, cases, processes):
        shown.append(clip)
        for measure, value in measures.items():
            values[measure].append(value)
    targets = SUITES[name].targets_after(before)
    figures = [
        figure(name, measure, numbers, targets.get(measure))
        for measure, numbers in values.items()
    ]
    return figures, shown[:SHEET_ROWS]


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        "| suite | what | share or mean | 95 % | clips | target |",
        "|---|---|---|---|---|---|",
    ]
    for row in figures:
        met = (
            ""
            if row.target is None
            else f"{row.target:.3g} {'met' if row.met else 'MISSED'}"
        )
        interval = f"{row.low:.3f} - {row.high:.3f}"
        lines.append(
            f"| {row.suite} | {row.measure} | {row.value:.3f} | {interval} |"
            f" {row.count} | {met} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the figures. Return 1 if a required target is missed."""
    options = _options(argv)
    engine = Engine(Settings.from_env())
    missing = not_installed(engine.settings.models_dir)
    _check_installed(options.suites, missing)
    installed = [name for name in SUITES if name not in missing]
    figures = _run_suites(engine, options.suites or installed, options)
    print(table(figures))
    if not options.suites and missing:
        print(f"\nnot installed: {', '.join(missing)}")
    if options.json:
        _write_figures(figures, options.json)
    is_missed = any(row.met is False for row in figures)
    return 1 if options.require and is_missed else 0


def _write_figures(figures: Sequence[Figure], path: Path) -> None:
    text = json.dumps([row.__dict__ for row in figures], indent=1)
    path.write_text(f"{text}\n", encoding="utf-8")


def _check_installed(names: Sequence[str], missing: Mapping[str, str]) -> None:
    """End the program where a suite lacks a file."""
    absent = [f"{name} (no {missing[name]})" for name in names if name in missing]
    if absent:
        _parser().error(f"not installed: {', '.join(absent)}")


def _run_suites(
    engine: Engine, names: Sequence[str], options: argparse.Namespace
) -> list[Figure]:
    """Return the figures of all suites, and write their contact sheets."""
    processes = options.processes or one_each(engine)
    clips, every, most_steps = options.clips, options.every, options.most_steps
    figures: list[Figure] = []
    for name in names:
        rows, shown = evaluate(
            engine, name, clips, every, figures, processes, most_steps
        )
        figures += rows
        if options.sheets:
            options.sheets.mkdir(parents=True, exist_ok=True)
            sheet = contact_sheet(shown, SHEET_COLUMNS)
            sheet.save(options.sheets / f"{name}.png", optimize=True)
    return figures


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options. Ends the program where one is wrong."""
    parser = _parser()
    options = parser.parse_args(argv)
    unknown = [name for name in options.suites if name not in SUITES]
    if unknown:
        parser.error(f"no suite {', '.join(unknown)}; there are {', '.join(SUITES)}")
    counts = (options.clips, options.every, options.most_steps, options.processes)
    if any(count is not None and count < 1 for count in counts):
        parser.error("--clips, --every, --most-steps and --processes are 1 or more")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lab.evaluate", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument(
        "suites",
        nargs="*",
        metavar="SUITE",
        help=f"of {', '.join(SUITES)}; none: all installed",
    )
    parser.add_argument("--clips", type=int, default=1, help="seeds of each prompt")
    parser.add_argument(
        "--every",
        type=int,
        default=1,
        metavar="N",
        help="only each Nth case: a quick look",
    )
    parser.add_argument(
        "--most-steps",
        type=int,
        metavar="N",
        help="sampling steps of a clip, where it has more",
    )
    parser.add_argument(
        "--processes",
        type=int,
        help="as many clips at a time; default: one, on CPUs one each",
    )
    parser.add_argument(
        "--sheets", type=Path, help="folder for a contact sheet of each suite"
    )
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument(
        "--require", action="store_true", help="end with 1 where a target is missed"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
