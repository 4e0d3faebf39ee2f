"""What a run says: a line of JSON for each measurement, TensorBoard's files, a picture
of the loss.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard.writer import SummaryWriter


class Report:
    """Written by one process. A run that goes on at ``first_step`` takes back what was
    said about later steps.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lines = folder / "metrics.jsonl"
        self._picture = folder / "loss.png"
        kept = [
            line for line in read_metrics(self._lines) if line["step"] <= first_step
        ]
        self._lines.write_text(
            "".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8"
        )
        self._board = SummaryWriter(
            str(folder / "tensorboard"), purge_step=first_step + 1
        )

    def say(self, step: int, numbers: Mapping[str, float]) -> None:
        """``numbers`` after ``step`` steps. What is not finite is null in JSON."""
        plain = {
            name: value if math.isfinite(value) else None
            for name, value in numbers.items()
        }
        with self._lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **plain}) + "\n")
        for name, value in numbers.items():
            self._board.add_scalar(name, value, step)

    def show(self, name: str, frames: np.ndarray, fps: int, step: int) -> None:
        """Frames, uint8 (f, H, W, 3), among TensorBoard's pictures."""
        if len(frames) == 1:
            self._board.add_image(name, frames[0], step, dataformats="HWC")
        else:
            strip = np.concatenate(list(frames[:: max(1, len(frames) // 8)]), axis=1)
            self._board.add_image(name, strip, step, dataformats="HWC")
        self._board.add_scalar(f"{name}/fps", fps, step)

    def draw(self) -> None:
        """loss.png: the loss at every measurement, and its mean over the last tenth of
        them.
        """
        from matplotlib.figure import Figure

        lines = [
            line for line in read_metrics(self._lines) if line.get("loss") is not None
        ]
        if not lines:
            return
        steps, losses = (
            [line["step"] for line in lines],
            np.array([line["loss"] for line in lines]),
        )
        width = max(1, len(losses) // 10)
        sums = np.cumsum(np.concatenate([[0.0], losses]))
        ends = np.arange(1, len(losses) + 1)
        starts = np.maximum(ends - width, 0)
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(steps, losses, linewidth=0.7, alpha=0.5, label="loss")
        axes.plot(
            steps,
            (sums[ends] - sums[starts]) / (ends - starts),
            label=f"mean of the last {width}",
        )
        axes.set(
            xlabel="step", ylabel="loss", yscale="log" if losses.min() > 0 else "linear"
        )
        axes.legend()
        figure.savefig(self._picture, dpi=100)

    def close(self) -> None:
        self._board.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; one that was cut short is left out."""
    lines = []
    if path.is_file():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                continue
    return lines
