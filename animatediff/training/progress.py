"""Loss, gradient norm and time of recent steps, and lengths of time in words."""

import math
import time
from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor

from .processes import Processes


class Window:
    """The steps since the last line of the log. Nothing waits for the device."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._restart()

    def _restart(self) -> None:
        self._sums = torch.zeros(2, device=self._processes.device)
        self._count = 0
        self._start = time.monotonic()

    def add(self, loss: Tensor, norm: Tensor) -> None:
        """Count one step."""
        self._sums += torch.stack([loss.float(), norm.float()])
        self._count += 1

    @contextmanager
    def paused(self) -> Generator[None]:
        """Do not count the time of the block."""
        before = time.monotonic()
        yield
        self._start += time.monotonic() - before

    def read(self) -> tuple[float, float, float]:
        """Mean loss over all processes, mean norm, seconds per step; then restart."""
        sums = self._processes.reduce(self._sums, "mean")
        loss, norm = (float(each) for each in sums / self._count)
        seconds = (time.monotonic() - self._start) / self._count
        self._restart()
        return loss, norm, seconds


def in_words(seconds: float) -> str:
    """A length of time, such as "2 h 05 min"."""
    hours, rest = divmod(math.ceil(seconds), 3600)
    if hours:
        return f"{hours} h {rest // 60:02} min"
    return f"{rest // 60} min {rest % 60:02} s"
