"""Generate clips and lay their frames out as one picture, one row for each prompt.

python -m lab.contact_sheet --output docs/contact_sheet.png "a red circle on a black
background, moving right" ...
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from animatediff.engine import Engine
from animatediff.job.clip import GenerationRequest
from animatediff.settings import Settings

GAP = 4
"""Pixels between frames."""
MIN_SIDE = 96
"""Smaller frames are enlarged by a whole factor, pixel by pixel."""


def contact_sheet(clips: list[np.ndarray], columns: int) -> Image.Image:
    """Return a picture with one row of ``columns`` frames for each clip.

    Clips are (f, h, w, 3), uint8. The first and the last frame are always shown.
    """
    rows = [_row(frames, columns) for frames in clips]
    width = max(row.shape[1] for row in rows)
    padded = [_padded(row, right=width - row.shape[1]) for row in rows]
    sheet = np.concatenate(padded)
    return Image.fromarray(sheet[:-GAP, :-GAP])


def _row(frames: np.ndarray, columns: int) -> np.ndarray:
    """Frames of a clip side by side, with a gap right of and below each."""
    count = len(frames)
    shown = np.linspace(0, count - 1, min(columns, count)).round().astype(int)
    height, width = frames.shape[1:3]
    scale = max(1, -(-MIN_SIDE // min(height, width)))
    large = frames[shown].repeat(scale, axis=1).repeat(scale, axis=2)
    padded = [_padded(frame, below=GAP, right=GAP) for frame in large]
    return np.concatenate(padded, axis=1)


def _padded(picture: np.ndarray, below: int = 0, right: int = 0) -> np.ndarray:
    """``picture`` (h, w, 3) with white pixels below and right of it."""
    return np.pad(picture, ((0, below), (0, right), (0, 0)), constant_values=255)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m lab.contact_sheet")
    parser.add_argument("prompts", nargs="+", metavar="PROMPT")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of the first prompt; each next one has the next seed",
    )
    parser.add_argument("--columns", type=int, default=8)
    options = parser.parse_args(arguments)

    engine = Engine(Settings.from_env())
    clips: list[np.ndarray] = []
    for seed, prompt in enumerate(tqdm(options.prompts, unit="clip"), options.seed):
        job = engine.prepare(GenerationRequest(prompt=prompt, seed=seed))
        clips.append(engine.generate(job).video.frames)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(clips, options.columns).save(options.output, optimize=True)


if __name__ == "__main__":
    main()
