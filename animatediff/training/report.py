"""The report of a run: lines of JSON, TensorBoard files, and a plot of the loss."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .libraries import Board, Plot

SHOWN_FRAMES = 8
"""Frames of a clip that TensorBoard shows next to each other."""
Line = dict[str, Any]


class Report:
    """Written by one process.

    A run that resumes at ``first_step`` removes the lines about later steps.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lines = folder / "metrics.jsonl"
        self._plot = folder / "loss.png"
        earlier = [line for line in self._read() if line["step"] <= first_step]
        text = "".join(json.dumps(line) + "\n" for line in earlier)
        self._lines.write_text(text, encoding="utf-8")
        self._board = Board(folder / "tensorboard", first_step + 1)

    def _read(self) -> list[Line]:
        return read_metrics(self._lines)

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """Record the figures after ``step`` steps. NaN and infinity become null."""
        line: Line = {"step": step}
        for name, value in figures.items():
            line[name] = value if math.isfinite(value) else None
            self._board.number(name, value, step)
        with self._lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def show(
        self, name: str, frames: npt.NDArray[np.uint8], fps: int, step: int
    ) -> None:
        """Show frames, uint8 (f, H, W, 3), in TensorBoard."""
        every = max(1, len(frames) // SHOWN_FRAMES)
        strip = np.concatenate(list(frames[::every]), axis=1)
        self._board.picture(name, strip, step)
        self._board.number(f"{name}/fps", fps, step)

    def draw(self) -> None:
        """Plot the loss at every measurement, and its mean over the last tenth."""
        lines = [line for line in self._read() if line.get("loss") is not None]
        if not lines:
            return
        steps: list[int] = [line["step"] for line in lines]
        losses = np.array([line["loss"] for line in lines])
        width = max(1, len(losses) // 10)
        plot = Plot("step", "loss", logarithmic=bool(losses.min() > 0))
        plot.line(steps, losses, "loss", faint=True)
        plot.line(steps, _trailing_means(losses, width), f"mean of the last {width}")
        plot.save(self._plot)

    def close(self) -> None:
        """Finish TensorBoard's files."""
        self._board.close()


def _trailing_means(
    values: npt.NDArray[np.float64], width: int
) -> npt.NDArray[np.float64]:
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def read_metrics(path: Path) -> list[Line]:
    """The lines of a metrics.jsonl, without incomplete ones."""
    lines: list[Line] = []
    if path.is_file():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                continue
    return lines
