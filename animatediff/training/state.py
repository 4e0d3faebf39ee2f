"""Everything that a step changes: weights, their average, optimizer, learning rate."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from .checkpoint import VERSION
from .config import TrainConfig
from .ema import MovingAverage
from .learners import Batch, Learner
from .libraries import learning_rate_schedule
from .processes import Processes


class TrainingState:
    """A learner between two steps. ``step`` counts those that are done."""

    def __init__(
        self, config: TrainConfig, learner: Learner, processes: Processes
    ) -> None:
        self._config, self._learner, self._processes = config, learner, processes
        self.parameters = learner.trained()
        self._optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=config.optimizer.lr,
            betas=config.optimizer.betas,
            weight_decay=config.optimizer.weight_decay,
            eps=config.optimizer.eps,
        )
        self._schedule = learning_rate_schedule(
            config.schedule.name,
            self._optimizer,
            config.schedule.warmup_steps,
            config.steps,
        )
        self._model, self._stepper = processes.prepare(learner, self._optimizer)
        self.ema = MovingAverage(self.parameters, config.ema.decay)
        self.step = 0

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return float(self._schedule.get_last_lr()[0])

    def advance(self, batches: Iterable[Batch], count: int) -> tuple[Tensor, Tensor]:
        """Take one step of the optimizer, with a batch for each of ``count`` turns.

        Returns this process's mean loss, and the gradients' norm before clipping.
        """
        total = torch.zeros((), device=self._processes.device)
        for turn, batch in enumerate(batches, start=1):
            is_last = turn == count
            with self._processes.syncing(self._model, enabled=is_last):
                loss = self._model(batch).mean() / count
                self._processes.backward(loss)
            total += loss.detach()
        norm = self._processes.clip_gradients(
            self.parameters.values(), self._config.max_grad_norm
        )
        self._stepper.step()
        if not self._processes.skipped_step:
            self._schedule.step()
            self._learner.after_step()
            self.ema.update()
        self._stepper.zero_grad()
        return total, norm

    def contents(self) -> dict[str, Any]:
        """Return the content of a checkpoint."""
        scaler = self._processes.scaler
        return {
            "version": VERSION,
            "step": self.step,
            "config": json.dumps(self._config.deciding()),
            "trained": _detached(self.parameters),
            "carried": _detached(self._learner.carried()),
            "ema": self.ema.state(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else {},
            # nothing draws from it: seed, step and place determine all random numbers
            "rng": torch.get_rng_state(),
        }

    @torch.no_grad()
    def restore(self, contents: Mapping[str, Any]) -> None:
        """Continue from a checkpoint. Raises CheckpointError if shapes differ."""
        tensors = {**self.parameters, **self._learner.carried()}
        saved: dict[str, Tensor] = {**contents["trained"], **contents["carried"]}
        if _shapes(tensors) != _shapes(saved):
            raise CheckpointError(
                "the checkpoint is of a model with other weights than this config's"
            )
        for name, tensor in tensors.items():
            tensor.copy_(saved[name])
        self.ema.restore(**contents["ema"])
        self._optimizer.load_state_dict(contents["optimizer"])
        self._schedule.load_state_dict(contents["schedule"])
        if self._processes.scaler is not None and contents["scaler"]:
            self._processes.scaler.load_state_dict(contents["scaler"])
        torch.set_rng_state(contents["rng"])
        self.step = contents["step"]


def _detached(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
