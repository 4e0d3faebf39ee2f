"""A CUDA device without a GPU: operators check shapes, dtypes and devices, and compute nothing.

torch's FakeTensorMode does all of it but one thing: a CPU build has no device guard for CUDA. A guard that does nothing
is compiled and registered here.
"""

import ctypes
import subprocess
import tempfile
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

DEVICE = torch.device("cuda:0")

_GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
namespace {
using Guard = c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>;
C10_REGISTER_GUARD_IMPL(CUDA, Guard)
}
"""
_registered = False


def register_guard() -> None:
    """Raises OSError where there is no C++ compiler."""
    global _registered
    if _registered or torch.cuda.is_available():
        return
    home = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "guard.cpp", Path(folder) / "guard.so"
        source.write_text(_GUARD)
        command = ["g++", "-shared", "-fPIC", "-std=c++20", f"-I{home / 'include'}", f"-L{home / 'lib'}"]
        done = subprocess.run(
            [*command, str(source), "-lc10", "-o", str(library)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise OSError(f"the guard does not compile: {done.stderr[-300:]}")
        ctypes.CDLL(str(library))
    _registered = True


def to_fake(module: nn.Module, mode: FakeTensorMode, dtype: torch.dtype) -> nn.Module:
    """``module``, built on the meta device, as if it were on the GPU in ``dtype``."""
    for part in module.modules():
        for name, tensor in list(part._parameters.items()):
            if tensor is not None:
                fake = FakeTensor(mode, tensor.detach().to(dtype), DEVICE)
                part._parameters[name] = nn.Parameter(fake, requires_grad=False)
        for name, tensor in list(part._buffers.items()):
            if tensor is not None:
                part._buffers[name] = FakeTensor(mode, tensor.to(dtype), DEVICE)
    return module


class LiveStorages(TorchDispatchMode):
    """Counts the bytes of the device that operators' results hold: ``live`` now, ``peak`` at most.

    Tensors made before this mode are not counted. Each storage counts once, for as long as something holds it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == DEVICE.type:
                self._hold(tensor.untyped_storage())
        return result

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._seen:
            self._seen.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


class PlainScheduler:
    """Stands for diffusers' ones, which read numbers off CPU tensors: in this mode no tensor has any."""

    init_noise_sigma = 1.0

    def __init__(self, _name: str, num_inference_steps: int) -> None:
        self.timesteps = torch.arange(num_inference_steps)

    def scale_model_input(self, sample: torch.Tensor, _timestep: torch.Tensor) -> torch.Tensor:
        return sample

    def step(self, noise_pred: torch.Tensor, _timestep: torch.Tensor, sample: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(prev_sample=sample - 0.1 * noise_pred)
