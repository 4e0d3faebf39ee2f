"""From the start of a process to a pipeline that is ready, and to its first frames.

``python -m lab.bench.cold_start SIDE`` is such a process; it prints its figures. Its
files lie in the page cache, as they were just written.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from lab.bench.figures import Row, alternate
from lab.bench.sizes import Run

ROOT = Path(__file__).parents[2]
FIGURES = {
    "ready": ("cold start, to ready", "s"),
    "first_frames": ("cold start, one step to frames", "s"),
    "ready_peak": ("cold start, peak when ready / weights", "times"),
    "peak_mb": ("cold start, peak with the first frames", "MB"),
}
"""The row of each figure that a process prints. Times count from its start."""


def measure(run: Run) -> Iterator[Row]:
    """Yield seconds and memory, each from processes that ran in turn.

    Memory is what is resident, mapped pages too. Of the peak when ready, what the
    interpreter and all imports take is taken off, and the rest is divided by the
    bytes of the weights.
    """
    from lab.bench.files import files_of

    files = files_of(run)
    folders = [files.base, files.motion("v3"), files.peer_motion]
    sides = ("ours",) if run.peer_reason else ("ours", "diffusers")
    results: dict[str, list[dict[str, float]]] = {side: [] for side in sides}

    def start(side: str) -> float:
        results[side].append(_started(side, folders, run))
        return results[side][-1]["ready"]

    alternate([lambda side=side: start(side) for side in sides], run.repeat)
    for key, (name, unit) in FIGURES.items():
        ours, *peer = ([each[key] for each in results[side]] for side in sides)
        yield Row(name, unit, ours, *peer, reason=run.peer_reason)


def _started(side: str, folders: Sequence[Path], run: Run) -> dict[str, float]:
    """Return the figures of a new process. Raises RuntimeError if it fails."""
    command = [sys.executable, "-m", "lab.bench.cold_start", side]
    command += ["--files", *map(str, folders), "--device", str(run.device)]
    command += ["--dtype", str(run.dtype).removeprefix("torch.")]
    command += ["--frames", str(run.size.frames), "--side", str(run.size.side)]
    command += ["--began", repr(time.time())]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{side} did not start: {done.stderr[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def resident(field: str) -> int:
    """Return bytes of this process: "VmRSS" now, "VmHWM" at most. 0 if unknown."""
    path = Path("/proc/self/status")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    match = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


class Start(Protocol):
    """One side: its imports, its models, its first frames."""

    def load(self, options: argparse.Namespace) -> Iterable[Any]:
        """Load a pipeline; return its models."""
        ...

    def run(self, options: argparse.Namespace) -> None:
        """Make frames with one step."""
        ...


class Ours:
    """This project.

    What its loading imports is imported before, so that the memory of imports is known.
    """

    def __init__(self) -> None:
        import transformers
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        from animatediff.pipeline import AnimationPipeline
        from animatediff.published import load_weights

        self._imported = AutoencoderKL, transformers.CLIPTextModel
        self._open, self._load_weights = AnimationPipeline.from_pretrained, load_weights

    def load(self, options: argparse.Namespace) -> Iterable[Any]:
        """Load a pipeline; return its models."""
        base, motion, _ = options.files
        device, dtype = options.device, options.dtype
        self._pipeline = self._open(base, device=device, dtype=dtype)
        self._load_weights(self._pipeline, motion, "v3")
        return self._pipeline.models.parts.values()

    def run(self, options: argparse.Namespace) -> None:
        """Make frames with one step."""
        from animatediff.sampling.inputs import AnimationInputs

        asked = AnimationInputs(
            "a",
            num_frames=options.frames,
            width=options.side,
            height=options.side,
            num_inference_steps=1,
        )
        pipeline = self._pipeline
        pipeline.decode_frames(pipeline.denoise(asked, pipeline.encode(asked)))


class Diffusers:
    """The peer."""

    def __init__(self) -> None:
        from lab.bench import peer

        self._peer = peer

    def load(self, options: argparse.Namespace) -> Iterable[Any]:
        """Load a pipeline; return its models."""
        base, _, motion = options.files
        self._pipeline = self._peer.build(base, motion, options.device, options.dtype)
        self._pipeline.set_progress_bar_config(disable=True)
        peer = self._pipeline
        return peer.unet, peer.vae, peer.text_encoder

    def run(self, options: argparse.Namespace) -> None:
        """Make frames with one step."""
        self._pipeline(
            "a",
            num_frames=options.frames,
            width=options.side,
            height=options.side,
            num_inference_steps=1,
            decode_chunk_size=4,
        )


SIDES: dict[str, type[Start]] = {"ours": Ours, "diffusers": Diffusers}


def main() -> None:
    """Start one side and print its figures."""
    options = _options()
    side = SIDES[options.side_of]()
    imports = resident("VmRSS")
    models = side.load(options)
    _synchronize(options.device)
    figures = {"ready": time.time() - options.began}
    peak = resident("VmHWM") - imports
    figures["ready_peak"] = peak / _bytes_of(models)
    side.run(options)
    _synchronize(options.device)
    figures["first_frames"] = time.time() - options.began
    figures["peak_mb"] = resident("VmHWM") / 1e6
    print(json.dumps(figures))


def _bytes_of(models: Iterable[Any]) -> int:
    return sum(each.nbytes for model in models for each in model.state_dict().values())


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("side_of", choices=SIDES)
    parser.add_argument("--files", type=Path, nargs=3)
    parser.add_argument("--device", type=torch.device)
    parser.add_argument("--dtype", type=lambda name: getattr(torch, name))
    parser.add_argument("--frames", type=int)
    parser.add_argument("--side", type=int)
    parser.add_argument("--began", type=float)
    return parser.parse_args()


if __name__ == "__main__":
    main()
