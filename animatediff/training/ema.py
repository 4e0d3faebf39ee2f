"""The moving average of what is trained."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def move_towards(
    averages: Iterable[Tensor], values: Iterable[Tensor], share: float
) -> None:
    """Every average, in place, by ``share`` of its way to its value."""
    torch._foreach_lerp_(list(averages), list(values), share)  # pyright: ignore[reportPrivateImportUsage]


class MovingAverage:
    """Weights averaged over the steps of training, with a decay that grows: min(decay,
    (1 + n) / (10 + n)).
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._parameters = dict(parameters)
        self._decay = decay
        self.num_updates = 0
        self.average = {
            name: parameter.detach().clone()
            for name, parameter in self._parameters.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        self.num_updates += 1
        decay = min(self._decay, (1 + self.num_updates) / (10 + self.num_updates))
        move_towards(self.average.values(), self._parameters.values(), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model with the average as its weights; afterwards it has its own again,
        bit for bit.
        """
        own = {
            name: parameter.detach().clone()
            for name, parameter in self._parameters.items()
        }
        self._write(self.average)
        try:
            yield
        finally:
            self._write(own)

    def state(self) -> dict[str, object]:
        return {"num_updates": self.num_updates, "average": self.average}

    @torch.no_grad()
    def restore(self, num_updates: int, average: Mapping[str, Tensor]) -> None:
        self.num_updates = num_updates
        for name, value in self.average.items():
            value.copy_(average[name])

    @torch.no_grad()
    def _write(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])
