"""Find what makes the host wait for a CUDA device, on one that computes nothing."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, Self
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from lab.counting.fake_cuda import DEVICE

_READS = {
    "_local_scalar_dense",
    "is_nonzero",
    "nonzero",
    "masked_select",
    "_linalg_check_errors",
    "equal",
    "_unique2",
}
"""Operators whose result, or whose shape, the host needs."""
_COPIES = {"_to_copy", "copy_"}


class HostWaits(TorchDispatchMode):
    """Run the operators of device tensors as fakes, and all others as they are.

    So what runs on the CPU has numbers, as the tables of a scheduler need.
    ``waits`` has the names of the operators that made the host wait: reads of a value,
    and copies that are blocking or of ordinary memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.fakes = FakeTensorMode(allow_non_fake_inputs=True)
        """The mode of the device's tensors, see ``to_fake``."""
        self._pinned: list[Tensor] = []
        self._pin = patch.object(
            Tensor, "pin_memory", lambda tensor: self._pinned_copy(tensor)
        )

    def __enter__(self) -> Self:
        self._pin.start()
        self.fakes.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.fakes.__exit__(*error)
        self._pin.stop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "aten" and torch.is_inference_mode_enabled():
            # That mode hides what an operator consists of.
            with self._again():
                if (result := func.decompose(*args, **kwargs)) is not NotImplemented:
                    return result
        name = func._overloadpacket.__name__
        tensors = list(_tensors((args, kwargs)))
        if not _is_here(kwargs.get("device")) or any(map(_is_there, tensors)):
            if self._is_wait(name, tensors, kwargs, args):
                self.waits.append(name)
            return func(*args, **kwargs)
        with unset_fake_temporarily():
            return func(*args, **kwargs)

    @contextmanager
    def _again(self) -> Generator[None]:
        """Take the operators of an operator, too."""
        super().__enter__()
        try:
            yield
        finally:
            super().__exit__(None, None, None)

    def _pinned_copy(self, tensor: Tensor) -> Tensor:
        """Stand for page-locked memory, which does not exist without a driver."""
        self._pinned.append(tensor.clone())
        return self._pinned[-1]

    def _is_pinned(self, tensor: Tensor) -> bool:
        storage = tensor.untyped_storage().data_ptr()
        return any(
            storage == each.untyped_storage().data_ptr() for each in self._pinned
        )

    def _is_wait(
        self, name: str, tensors: list[Tensor], kwargs: Any, args: Any
    ) -> bool:
        """Whether an operator of the device makes the host wait.

        A single number of the CPU is an argument of a kernel; more than that is copied.
        """
        if name in _READS:
            return True
        from_host = [tensor for tensor in tensors if not _is_there(tensor)]
        if name in _COPIES:
            return self._is_copy_waiting(name, from_host, kwargs, args)
        return any(tensor.ndim for tensor in from_host)

    def _is_copy_waiting(
        self, name: str, from_host: list[Tensor], kwargs: Any, args: Any
    ) -> bool:
        if not from_host and not _is_here(kwargs.get("device") or DEVICE):
            return False  # from the device to itself
        positional = name == "copy_" and args[2:] == (True,)
        non_blocking = kwargs.get("non_blocking", positional)
        return not (non_blocking and all(map(self._is_pinned, from_host)))


def _is_there(tensor: Tensor) -> bool:
    return tensor.device.type == DEVICE.type


def _is_here(device: torch.device | str | None) -> bool:
    return device is None or torch.device(device).type != DEVICE.type


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_iter(tree) if isinstance(leaf, Tensor))
