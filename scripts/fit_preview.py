"""Fit the linear map of previews to a model, and print it with its error.

python -m scripts.fit_preview --model shapeworld --prompt "a red circle, moving up"
"""

import argparse
import sys
from collections.abc import Sequence

import torch

from animatediff.catalog import BASE_MODELS
from animatediff.cli import run
from animatediff.engine import Engine
from animatediff.job.clip import GenerationRequest
from animatediff.previews.fitting import Fit, Sample, error_of, fitted, samples
from animatediff.progress import Progress
from animatediff.settings import Settings


def main(arguments: Sequence[str] | None = None, prog: str = "fit_preview") -> int:
    """Print the factors as a row of families/, their error, and the known ones'."""
    parser = argparse.ArgumentParser(
        prog=prog, description="Fit the linear map of previews to a model's VAE."
    )
    parser.add_argument("--model", help="a job's model (default: the first installed)")
    parser.add_argument("--vae", help="a job's VAE file in place of the model's")
    parser.add_argument(
        "--prompt",
        action="append",
        default=[],
        help="fit to clips of these prompts (default: to pictures that are drawn)",
    )
    options = parser.parse_args(arguments)
    engine = Engine(Settings.from_env().replace(any_path=True))
    files = {"model": options.model, "vae": options.vae}
    jobs = [GenerationRequest(prompt=each, seed=7, **files) for each in options.prompt]
    if jobs:
        known = [_sample(engine, job) for job in jobs]
    else:
        prepared = engine.prepare(GenerationRequest(prompt="", **files))
        with torch.inference_mode():
            known = list(samples(engine.configure(prepared.stack).vae))
    _show(fitted(known))
    row = BASE_MODELS.get(options.model or engine.default_model())
    if row is not None and row.preview is not None:
        error, explained = error_of(row.preview, known)
        print(f"the known factors: error {error:.1f} of 255, {explained:.1%} explained")
    return 0


def _sample(engine: Engine, job: GenerationRequest) -> Sample:
    """The last latents of a clip, and its frames."""
    latents: list[torch.Tensor] = []

    def note(progress: Progress) -> None:
        if progress.latents is not None:
            latents[:] = [progress.latents[0]]

    frames = engine.generate(engine.prepare(job), note).video.frames
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2) / 255
    return Sample.of(latents[0].cpu(), pixels)


def _show(fit: Fit) -> None:
    factors = fit.factors
    print("PreviewFactors(")
    rows = [tuple(round(value, 3) for value in row) for row in factors.rows]
    bias = tuple(round(value, 3) for value in factors.bias)
    print(f"    {tuple(rows)},\n    {bias},\n    {factors.spread:.2f},\n)")
    print(f"fitted: error {fit.error:.1f} of 255, {fit.explained:.1%} explained")


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:], "python -m scripts.fit_preview"))
