"""Copies between the host and a GPU that do not wait, and finished work there.

A GPU runs behind the host, which launches its work. A copy of ordinary memory makes the
host wait until all of that work is done; a copy of page-locked memory joins the work.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .progress import Progress, Report

STAGING_BYTES = 2**25
"""The size of a page-locked buffer. It has to hold a number of any type."""


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Return ``tensor`` on ``device``, without a wait if that is a GPU."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def send_weights(
    tensors: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return ``tensors`` on ``device`` in ``dtype``.

    To a GPU they cross as they are, and are cast there.
    """
    if device.type != "cuda":
        return {key: tensor.to(device, dtype) for key, tensor in tensors.items()}
    staging = Staging(device)
    return {key: staging.send(tensor).to(dtype) for key, tensor in tensors.items()}


class Staging:
    """Two page-locked buffers, through which tensors of any size cross to ``device``.

    One is filled while the other one crosses. Page-locking the tensors themselves would
    take as much memory as a model.
    """

    def __init__(self, device: torch.device, size: int = STAGING_BYTES) -> None:
        self._device, self._size = device, size
        self._buffers = deque(
            (torch.empty(size, dtype=torch.uint8).pin_memory(), torch.Event(device))
            for _ in range(2)
        )

    def send(self, tensor: Tensor) -> Tensor:
        """Return a copy of ``tensor`` on the device, contiguous."""
        if tensor.device.type != "cpu":
            return tensor.to(self._device)
        copied = torch.empty(tensor.shape, dtype=tensor.dtype, device=self._device)
        piece = self._size // tensor.itemsize
        sources = torch.split(tensor.reshape(-1), piece)
        targets = torch.split(copied.view(-1), piece)
        for source, target in zip(sources, targets, strict=True):
            self._cross(source, target)
        return copied

    def _cross(self, source: Tensor, target: Tensor) -> None:
        buffer, crossed = self._buffers[0]
        crossed.synchronize()  # what it held before; at once the first time
        staged = buffer[: source.nbytes].view(source.dtype)
        staged.copy_(source)
        target.copy_(staged, non_blocking=True)
        crossed.record()
        self._buffers.rotate()


def receive(tensor: Tensor) -> Tensor:
    """Return ``tensor`` on the CPU. From a GPU it arrives when the GPU's work is done.

    Wait for the work (``FinishedWork``) before reading it. torch makes its memory
    page-locked.
    """
    return tensor.to("cpu", non_blocking=True)


@dataclass(frozen=True, eq=False)
class Arriving:
    """A copy on its way to the host: ``tensor`` may be read after ``wait``.

    ``source`` is held until then, so that its memory is not used for anything else.
    """

    tensor: Tensor
    source: Tensor
    event: torch.Event | None = None

    def wait(self) -> None:
        """Return when the copy is there."""
        if self.event is not None:
            self.event.synchronize()


class SideCopies:
    """Copies to the host beside the work of ``device``, on a stream of their own.

    No work waits for such a copy, and it waits for none but what makes its tensor.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.Stream(device) if device.type == "cuda" else None

    def receive(self, tensor: Tensor) -> Arriving:
        """Begin to copy ``tensor`` to the host."""
        if self._stream is None:
            return Arriving(tensor, tensor)
        made = torch.Event(self._device)
        made.record()
        self._stream.wait_event(made)
        with torch.cuda.stream(self._stream):  # pyright: ignore[reportArgumentType]
            copied = receive(tensor)
            arrived = torch.Event(self._device, blocking=True)
            arrived.record()
        return Arriving(copied, tensor, arrived)


class FinishedWork:
    """Reports work once ``device`` has finished it.

    On a GPU that is when the next work is launched, so that there is always work
    waiting for the GPU, and one piece at most is launched after a report that raises.
    On a CPU, work is finished when its call returns.
    """

    def __init__(self, device: torch.device, report: Report) -> None:
        self._device, self._report = device, report
        self._launched: tuple[Progress, torch.Event, Arriving | None] | None = None

    def launched(self, progress: Progress, arriving: Arriving | None = None) -> None:
        """Note that ``progress`` is true once the work launched so far is finished.

        ``arriving`` is a copy that the report will read.
        """
        if self._device.type != "cuda":
            self._report(progress)
            return
        event = torch.Event(self._device, blocking=True)
        event.record()
        self.wait()
        self._launched = progress, event, arriving

    def wait(self) -> None:
        """Wait for the work noted last, and report it."""
        if self._launched is not None:
            (progress, event, arriving), self._launched = self._launched, None
            event.synchronize()
            if arriving is not None:
                arriving.wait()
            self._report(progress)
