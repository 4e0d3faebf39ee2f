"""Generate clips and lay their frames out as one picture, a row a prompt:

python -m lab.contact_sheet --output docs/contact_sheet.png "a red circle on a black
background, moving right" ...
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from animatediff.engine import Engine
from animatediff.job.clip import GenerationRequest
from animatediff.settings import Settings

GAP = 4  # pixels between frames
MIN_SIDE = 96  # smaller frames are enlarged, pixel by pixel


def contact_sheet(clips: list[np.ndarray], columns: int) -> Image.Image:
    """Clips (f, h, w, 3), uint8, one a row: ``columns`` frames of each, first and last
    among them.
    """
    rows = []
    for frames in clips:
        scale = max(1, -(-MIN_SIDE // min(frames.shape[1:3])))
        chosen = frames[
            np.linspace(0, len(frames) - 1, min(columns, len(frames)))
            .round()
            .astype(int)
        ]
        large = chosen.repeat(scale, axis=1).repeat(scale, axis=2)
        padded = np.pad(
            large, ((0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255
        )
        rows.append(np.concatenate(list(padded), axis=1))
    width = max(row.shape[1] for row in rows)
    rows = [
        np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255)
        for row in rows
    ]
    return Image.fromarray(np.concatenate(rows)[:-GAP, :-GAP])


def main() -> None:
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
    options = parser.parse_args()

    engine = Engine(Settings.from_env())
    clips = []
    for i, prompt in enumerate(tqdm(options.prompts, unit="clip")):
        request = engine.prepare(
            GenerationRequest(prompt=prompt, seed=options.seed + i)
        )
        clips.append(engine.generate(request).video.frames)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(clips, options.columns).save(options.output, optimize=True)


if __name__ == "__main__":
    main()
