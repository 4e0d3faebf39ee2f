"""The processes that train together, through accelerate."""

import signal
import threading
import warnings
from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from accelerate import Accelerator  # pyright: ignore[reportMissingTypeStubs]
from accelerate.utils import (  # pyright: ignore[reportMissingTypeStubs]
    DistributedDataParallelKwargs,
)
from torch import Tensor, nn

from ..errors import ConfigurationError


class Processes:
    """This process and its peers. accelerate's types are incomplete; these are not.

    Raises ConfigurationError for fp16 without a GPU.
    """

    def __init__(self, precision: str) -> None:
        on_cpu = not torch.cuda.is_available()
        if on_cpu and precision == "fp16":
            raise ConfigurationError("precision: fp16 needs a GPU", setting="precision")
        # torch 2.13 has a new name for it, which accelerate 1.15 cannot pass on
        warnings.filterwarnings(
            "ignore", message=".*broadcast_buffers.*", category=FutureWarning
        )
        frozen_buffers = DistributedDataParallelKwargs(broadcast_buffers=False)
        self._accelerator: Any = Accelerator(
            cpu=on_cpu, mixed_precision=precision, kwargs_handlers=[frozen_buffers]
        )
        self.device: torch.device = self._accelerator.device
        self.count: int = self._accelerator.num_processes
        self.index: int = self._accelerator.process_index
        self.is_main: bool = self._accelerator.is_main_process

    @property
    def scaler(self) -> Any:
        """The gradient scaler of fp16, or None."""
        return self._accelerator.scaler

    @property
    def skipped_step(self) -> bool:
        """Whether the last step was skipped because fp16 overflowed."""
        return self._accelerator.optimizer_step_was_skipped

    def prepare(
        self, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The model and the optimizer, wrapped for all processes."""
        return self._accelerator.prepare(model, optimizer)

    def syncing(
        self, model: nn.Module, *, enabled: bool
    ) -> AbstractContextManager[None]:
        """Exchange gradients in the block, or not."""
        return nullcontext() if enabled else self._accelerator.no_sync(model)

    def backward(self, loss: Tensor) -> None:
        """Compute gradients."""
        self._accelerator.backward(loss)

    def clip_gradients(
        self, parameters: Iterable[nn.Parameter], max_norm: float
    ) -> Tensor:
        """Clip the gradients' norm, and return what it was."""
        norm = self._accelerator.clip_grad_norm_(parameters, max_norm)
        return torch.as_tensor(norm, device=self.device)

    def reduce(self, values: Tensor, reduction: Literal["sum", "mean"]) -> Tensor:
        """The sum or mean of ``values`` over all processes."""
        return self._accelerator.reduce(values, reduction)

    def wait(self) -> None:
        """Wait for all processes."""
        self._accelerator.wait_for_everyone()

    def end(self) -> None:
        """Leave the process group, if there is one."""
        self._accelerator.end_training()


class StopSignal:
    """Notes a SIGTERM, so that a run can end after its current step."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._received = False

    @contextmanager
    def handled(self) -> Generator[None]:
        """Do not let a SIGTERM end the process in this block."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _note(self, _signal: int, _frame: Any) -> None:
        self._received = True

    def received(self) -> bool:
        """Whether any process received one. All must end after the same step."""
        if self._processes.count == 1:
            return self._received
        flag = torch.tensor(float(self._received), device=self._processes.device)
        return bool(self._processes.reduce(flag, "sum") > 0)
