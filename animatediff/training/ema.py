"""The moving average of the trained weights."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .libraries import move_towards


class MovingAverage:
    """An average over the steps of training.

    The decay of step n is min(decay, (1 + n) / (10 + n)).
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._parameters = dict(parameters)
        self._decay = decay
        self.num_updates = 0
        self.average = self._copies()

    def _copies(self) -> dict[str, Tensor]:
        return {
            name: parameter.detach().clone()
            for name, parameter in self._parameters.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Include the current weights."""
        self.num_updates += 1
        limit = (1 + self.num_updates) / (10 + self.num_updates)
        share = 1 - min(self._decay, limit)
        move_towards(self.average.values(), self._parameters.values(), share)

    @contextmanager
    def in_place(self) -> Generator[None]:
        """Use the average as the model's weights in the block.

        Afterwards the weights are restored bit for bit.
        """
        weights = self._copies()
        self._write(self.average)
        try:
            yield
        finally:
            self._write(weights)

    def state(self) -> dict[str, object]:
        """The contents of a checkpoint."""
        return {"num_updates": self.num_updates, "average": self.average}

    @torch.no_grad()
    def restore(self, num_updates: int, average: Mapping[str, Tensor]) -> None:
        """Continue from the ``state`` of another average."""
        self.num_updates = num_updates
        for name, tensor in self.average.items():
            tensor.copy_(average[name])

    @torch.no_grad()
    def _write(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])
