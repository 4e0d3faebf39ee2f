"""What crosses between the host and a GPU without a wait, and what is finished there.

A GPU runs behind the host, which launches its work. A copy of ordinary memory makes the
host wait until all of that work is done; a copy of page-locked memory joins the work.
"""

import torch
from torch import Tensor

from .progress import Progress, Report


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Return ``tensor`` on ``device``, without a wait if that is a GPU."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def receive(tensor: Tensor) -> Tensor:
    """Return ``tensor`` on the CPU. From a GPU it arrives when the GPU's work is done.

    Wait for the work (``FinishedWork``) before reading it. torch makes its memory
    page-locked.
    """
    return tensor.to("cpu", non_blocking=True)


class FinishedWork:
    """Reports work once ``device`` has finished it.

    On a GPU that is when the next work is launched, so that there is always work
    waiting for the GPU, and one piece at most is launched after a report that raises.
    On a CPU, work is finished when its call returns.
    """

    def __init__(self, device: torch.device, report: Report) -> None:
        self._device, self._report = device, report
        self._launched: tuple[Progress, torch.Event] | None = None

    def launched(self, progress: Progress) -> None:
        """Note that ``progress`` is true once the work launched so far is finished."""
        if self._device.type != "cuda":
            self._report(progress)
            return
        event = torch.Event(self._device, blocking=True)
        event.record()
        self.wait()
        self._launched = progress, event

    def wait(self) -> None:
        """Wait for the work noted last, and report it."""
        if self._launched is not None:
            (progress, event), self._launched = self._launched, None
            event.synchronize()
            self._report(progress)
