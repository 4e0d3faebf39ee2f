"""Train the embedded family from nothing: python -m lab.train_shapeworld.

Each step is a config of ``configs/training/shapeworld`` under train.py, and ends with a
test: its files must be good enough for the next step, or the run stops. A step that is
done is not done again, and one that was interrupted goes on from its newest checkpoint.
All of it is in one folder, the family in ``models/shapeworld`` below it, and the time
and the figures of each step in the family's ``training.json``.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from animatediff.engine import Engine
from animatediff.families import DEFAULT
from animatediff.pipeline import AnimationPipeline
from animatediff.sampling.inputs import AnimationInputs
from animatediff.settings import PROJECT_ROOT, Settings
from animatediff.training.config import load_config
from animatediff.training.report import read_metrics
from lab.evaluate import evaluate, one_each, right_about
from lab.shapeworld import world
from lab.shapeworld.judge import read
from lab.shapeworld.scene import CAMERAS

CONFIGS = PROJECT_ROOT / "configs" / "training" / "shapeworld"
SHIPPED = PROJECT_ROOT / "models" / "shapeworld"

RECORD = "training.json"

SEEN_AT_ONCE = ("colour", "shape", "background")
"""A single frame is judged by these."""

LOSSES_KEPT = 20
"""Points of each step's loss curve in the family's record."""

Figures = dict[str, float]


@dataclass(frozen=True)
class Step:
    """``config`` with ``overrides``; ``takes`` says where its exports go in the family.

    ``test`` measures the family, and each of its figures must be at least what
    ``least`` says.
    """

    name: str
    config: str
    takes: Mapping[str, str]
    test: Callable[[Path], Figures]
    least: Figures
    overrides: tuple[str, ...] = field(default=())


# ------------------------------------------------------------------------------
# tests


@torch.inference_mode()
def reconstruction(family: Path, clips: int = 84) -> Figures:
    """Measure how well the autoencoder restores clips that it was not trained on.

    The judge reads them.
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    vae: Any = AutoencoderKL.from_pretrained(family / "vae")
    rows: list[dict[str, float]] = []
    for index in range(clips):
        clip = world.clip(99, "held_out", index, two_objects=0.0)
        pixels = torch.from_numpy(clip.frames).permute(0, 3, 1, 2).float() / 127.5 - 1
        back = vae.decode(vae.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
        reading = read(
            ((back / 2 + 0.5) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        )
        psnr = float(-10 * torch.log10((((back - pixels) / 2) ** 2).mean()))
        rows.append({**right_about(clip.scene, reading, SEEN_AT_ONCE), "psnr": psnr})
    return _means(rows)


def _means(rows: Sequence[Figures]) -> Figures:
    return {
        name: float(np.mean([figures[name] for figures in rows])) for name in rows[0]
    }


SWAPS = {
    "colour": (
        "a red circle on a black background, moving left",
        "a blue circle on a black background, moving left",
    ),
    "shape": (
        "a red circle on a black background, moving left",
        "a red square on a black background, moving left",
    ),
    "direction": (
        "a red circle on a black background, moving left",
        "a red circle on a black background, moving right",
    ),
    "growth": (
        "a red circle on a black background, growing",
        "a red circle on a black background, shrinking",
    ),
}


@torch.inference_mode()
def word_distances(family: Path) -> Figures:
    """Return the distance of the text embeddings of prompts that differ in one word.

    The distance is 1 - cosine, averaged over the positions.
    """
    pipeline = _pipeline(family, unet=SHIPPED)
    figures = {}
    for name, prompts in SWAPS.items():
        one, other = (
            pipeline.encode(AnimationInputs(p, guidance_scale=1.0)).embeds[0]
            for p in prompts
        )
        figures[name] = float(
            1 - torch.nn.functional.cosine_similarity(one, other).mean()
        )
    return figures


@torch.inference_mode()
def words_drawn(family: Path) -> Figures:
    """Measure the UNet: how a swapped word changes the noise, and single frames.

    The change is the mean square of that of the predicted noise.
    """
    pipeline = _pipeline(family)
    figures = {}
    latents = torch.randn(8, 4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for name, prompts in SWAPS.items():
        texts = [
            pipeline.encode(AnimationInputs(p, guidance_scale=1.0)).embeds.expand(
                8, -1, -1
            )
            for p in prompts
        ]
        one, other = (pipeline.unet(latents, 650, text) for text in texts)
        figures[f"swap of {name}"] = float(((one - other) ** 2).mean())
    rows = []
    for seed, scene in enumerate(world.held_out_scenes()):
        inputs = AnimationInputs(
            scene.prompt,
            num_frames=1,
            width=64,
            height=64,
            guidance_scale=4.0,
            seeds=(seed,),
        )
        frames = pipeline.decode_frames(
            pipeline.denoise(inputs, pipeline.encode(inputs))
        )[0].numpy()
        rows.append(right_about(scene, read(frames), SEEN_AT_ONCE))
    return figures | _means(rows)


def _pipeline(family: Path, unet: Path | None = None) -> AnimationPipeline:
    """Return the family as it is so far.

    ``unet``: the folder of another family, whose UNet serves while this one has none.
    """
    if unet is not None and not (family / "unet").is_dir():
        from animatediff.checkpoints import diffusers_folder

        cpu, full = torch.device("cpu"), torch.float32
        texts = diffusers_folder.load_texts(family, DEFAULT, cpu, full)
        models = diffusers_folder.load_image_model(unet, cpu, full, "sdpa")
        return AnimationPipeline(replace(models, texts=texts))
    return AnimationPipeline.from_pretrained(family)


def suite(name: str, every: int = 1) -> Callable[[Path], Figures]:
    """Return a test: the figures of a suite of ``lab.evaluate``.

    ``every``: it runs each ``every``th case.
    """

    def test(family: Path) -> Figures:
        settings = Settings(models_dir=family.parent, offline=True)
        engine = Engine(settings)
        figures, _ = evaluate(engine, name, 1, every, processes=one_each(engine))
        return {figure.measure: round(figure.value, 4) for figure in figures}

    return test


# ------------------------------------------------------------------------------
# steps


def _for_camera(move: str) -> tuple[str, ...]:
    """Return the overrides of a MotionLoRA's config for its move.

    Half of a move is harder to learn than all of it, so it is seen more often. A roll
    is hard as a whole: what is on the left must go another way than what is on the
    right.
    """
    half, whole = f"{{camera: {move}, amount: 0.5}}", f"{{camera: {move}}}"
    if move.startswith("roll"):
        return (f"data.shots=[{half}, {whole}, {whole}]", "lora.rank=16", "steps=700")
    return (f"data.shots=[{half}, {half}, {whole}]",)


V3 = {"motion_module.safetensors": "motion_module_v3.safetensors"}

STEPS = (
    Step(
        "vae",
        "vae",
        {"vae": "vae"},
        reconstruction,
        {"colour": 0.98, "shape": 0.92, "background": 0.99, "psnr": 31},
    ),
    Step(
        "text_encoder",
        "text_encoder",
        {"text_encoder": "text_encoder", "tokenizer": "tokenizer"},
        word_distances,
        dict.fromkeys(SWAPS, 0.05),
    ),
    Step(
        "text_to_image",
        "text_to_image",
        {"model/unet": "unet", "model/scheduler": "scheduler"},
        words_drawn,
        # a UNet that ignores the word changes by 2e-5 and less; one that draws every
        # shape right was measured at 2e-4
        {
            "swap of shape": 1e-4,
            "swap of direction": 1e-4,
            "colour": 0.95,
            "shape": 0.9,
            "background": 0.97,
        },
    ),
    Step(
        "motion_v3_begin",
        "motion_v3_begin",
        V3,
        suite("scenes"),
        {"colour": 0.85, "shape": 0.7, "motion": 0.5},
    ),
    Step(
        "motion_v3_middle",
        "motion_v3",
        V3,
        suite("scenes"),
        {"colour": 0.9, "shape": 0.85, "motion": 0.6},
        ("steps=1250", "seed=16"),
    ),
    Step(  # leaves the latents as they are, and with them all that was trained on them
        "vae_decoder",
        "vae_decoder",
        {"vae": "vae"},
        reconstruction,
        {"colour": 0.98, "shape": 0.97, "background": 0.99, "psnr": 33},
    ),
    Step(
        "motion_v3",
        "motion_v3",
        V3,
        suite("scenes"),
        {"colour": 0.9, "shape": 0.85, "motion": 0.85},
    ),
    Step(
        "motion_v2",
        "motion_v2",
        {"motion_module.safetensors": "motion_module_v2.safetensors"},
        suite("scenes_v2"),
        {"colour": 0.9, "shape": 0.85, "motion": 0.85},
    ),
    *(
        Step(
            f"motion_lora_{move}",
            "motion_lora",
            {"motion_lora.safetensors": f"motion_lora_{move}.safetensors"},
            suite(f"camera_{move}"),
            {"moved its way": 0.7, "more with strength": 0.5},
            _for_camera(move),
        )
        for move in CAMERAS
    ),
    Step(
        "domain_adapter",
        "domain_adapter",
        {"domain_adapter.safetensors": "domain_adapter.safetensors"},
        suite("domain_adapter", 2),
        {"changed as it should": 0.7},
    ),
    Step(
        "style_lora",
        "style_lora",
        {"lora.safetensors": "style_lora.safetensors"},
        suite("style_lora", 2),
        {"changed as it should": 0.7},
    ),
    Step(
        "dreambooth",
        "dreambooth",
        {"model.safetensors": "dreambooth.safetensors"},
        suite("dreambooth", 2),
        {"changed as it should": 0.7},
    ),
    Step(
        "sparsectrl_rgb",
        "sparsectrl_rgb",
        {"sparsectrl_rgb.safetensors": "sparsectrl_rgb.safetensors"},
        suite("sparsectrl_rgb"),
        {"first frame, dB": 19, "motion": 0.7},
    ),
    Step(
        "sparsectrl_scribble",
        "sparsectrl_scribble",
        {"sparsectrl_scribble.safetensors": "sparsectrl_scribble.safetensors"},
        suite("sparsectrl_scribble"),
        {"motion": 0.7},
    ),
    Step(
        "lcm",
        "lcm",
        {"motion_module.safetensors": "motion_module_lcm.safetensors"},
        suite("lcm_8"),
        {"colour": 0.85, "shape": 0.8, "motion": 0.75},
    ),
)


def of_the_log(folder: Path) -> dict[str, Any]:
    """Return the time and the loss curve of a run.

    ``seconds``: the sum over its steps, however often it was interrupted. ``losses``:
    points of the curve, each the mean of the steps since the point before.
    """
    logged = [
        line
        for line in read_metrics(folder / "metrics.jsonl")
        if line.get("loss") is not None
    ]
    timed = [(0, 0.0), *((line["step"], line["seconds_per_step"]) for line in logged)]
    seconds = sum(
        (step - before) * seconds for (before, _), (step, seconds) in pairwise(timed)
    )
    every = max(1, math.ceil(len(logged) / LOSSES_KEPT))
    parts = [logged[start : start + every] for start in range(0, len(logged), every)]
    losses = [
        [part[-1]["step"], round(float(np.mean([line["loss"] for line in part])), 5)]
        for part in parts
    ]
    return {"seconds": round(seconds), "losses": losses}


def read_record(family: Path) -> dict[str, Any]:
    """Return the record of the steps that made the family's files, by their names."""
    file = family / RECORD
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def run(step: Step, work: Path, processes: int) -> Figures:
    """Train ``step``, put its files into the family, and test that.

    Raises SystemExit where that fails.
    """
    family = work / "models" / "shapeworld"
    config = load_config(CONFIGS / f"{step.config}.yaml", step.overrides)
    if known := read_record(family).get(step.name):
        is_equal = known["config"] == config.fingerprint()
        changed = "" if is_equal else ", with another config than today's"
        print(f"{step.name}: done before{changed}", flush=True)
        return known["figures"]
    _train(step, work, processes)
    _take_exports(step, work / step.name / "export", family)
    figures = step.test(family)
    log = of_the_log(work / step.name)
    shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
    print(f"{step.name}: {log['seconds']} s, {shown}", flush=True)
    _check_figures(step, figures)
    entry = {
        "config": config.fingerprint(),
        "steps": config.steps,
        "items_a_step": config.batch_size
        * config.gradient_accumulation_steps
        * processes,
        "seed": config.seed,
        "figures": {name: round(value, 5) for name, value in figures.items()},
        **log,
    }
    record = {**read_record(family), step.name: entry}
    (family / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return figures


def _train(step: Step, work: Path, processes: int) -> None:
    """Run train.py in so many processes. Raises SystemExit where it fails."""
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(processes)]
    config = str(CONFIGS / f"{step.config}.yaml")
    command += ["train.py", "--config", config, f"output_dir={work / step.name}"]
    command += step.overrides
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=PROJECT_ROOT, env=env, check=False)
    if done.returncode:
        raise SystemExit(f"{step.name}: train.py ended with {done.returncode}")


def _take_exports(step: Step, exports: Path, family: Path) -> None:
    """Copy the files that ``step`` made into the family."""
    for name, place in step.takes.items():
        source, target = exports / name, family / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)


def _check_figures(step: Step, figures: Figures) -> None:
    """Raise SystemExit unless each figure is at least what ``step`` needs."""
    missed: list[str] = []
    for name, least in step.least.items():
        value = figures.get(name, 0)
        if value < least:
            missed.append(f"{name} {value:.4g} < {least:g}")
    if missed:
        raise SystemExit(
            f"{step.name} is not good enough for the next step: {'; '.join(missed)}"
        )


def table(record: Mapping[str, Any]) -> str:
    """Return the record as a Markdown table: each step, its time and its figures."""
    lines = [
        "| step | steps x items | seed | minutes | its test |",
        "|---|---|---|---|---|",
    ]
    for name, entry in record.items():
        shown = ", ".join(
            f"{measure} {value:.3g}" for measure, value in entry["figures"].items()
        )
        size = f"{entry['steps']:,} x {entry['items_a_step']}"
        lines.append(
            f"| {name} | {size} | {entry['seed']} | {entry['seconds'] / 60:.0f} |"
            f" {shown} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Train all steps that are not done, or print the record."""
    parser = argparse.ArgumentParser(
        prog="python -m lab.train_shapeworld",
        description=(__doc__ or "").split("\n")[0],
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=PROJECT_ROOT / "runs" / "shapeworld",
        help="folder of it all",
    )
    parser.add_argument(
        "--until", choices=[step.name for step in STEPS], help="the last step to do"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--go-on",
        type=Path,
        metavar="FAMILY",
        help="begin with a family's files and do what it lacks",
    )
    parser.add_argument(
        "--table",
        action="store_true",
        help="train nothing: print the record of the one that ships",
    )
    options = parser.parse_args(argv)
    if options.table:
        print(table(read_record(SHIPPED)))
        return 0
    family = options.work / "models" / "shapeworld"
    if options.go_on and not family.is_dir():
        shutil.copytree(options.go_on, family)
    if not (family / "tokenizer").is_dir():  # CLIP's own
        shutil.copytree(SHIPPED / "tokenizer", family / "tokenizer")
    for step in STEPS:
        run(step, options.work, options.processes)
        if step.name == options.until:
            break
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
