"""A CUDA device without a GPU: operators check shapes, dtypes and devices, and compute
nothing.

torch's FakeTensorMode does all of it but what a CPU build has not: a device guard for
CUDA, and, for gradients, somebody who says that there is a device. Both are compiled
here, as little as torch asks for.
"""

import ctypes
import os
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

DEVICE = torch.device("cuda:0")

_LIBRARY = """
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
namespace {
const c10::Device kDevice(c10::DeviceType::CUDA, 0);

struct Guard : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  static c10::Stream stream() { return c10::Stream(c10::Stream::DEFAULT, kDevice); }
  c10::Device getDevice() const override { return kDevice; }
  c10::Device exchangeDevice(c10::Device) const override { return kDevice; }
  c10::Stream getStream(c10::Device) const noexcept override { return stream(); }
  c10::Stream getDefaultStream(c10::Device) const override { return stream(); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return stream(); }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard)

struct CUDAHooks : at::CUDAHooksInterface {  // torch asks for it by this name
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  void init() const override {}
  bool hasPrimaryContext(c10::DeviceIndex) const override { return false; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
};
using namespace at;
REGISTER_CUDA_HOOKS(CUDAHooks);
}
"""
_registered = False


def _compile(folder: Path) -> Path:
    """Raises OSError where there is no C++ compiler."""
    home = Path(torch.__file__).parent
    source, library = folder / "fake_cuda.cpp", folder / "fake_cuda.so"
    source.write_text(_LIBRARY)
    command = [
        "g++",
        "-shared",
        "-fPIC",
        "-std=c++20",
        f"-I{home / 'include'}",
        str(source),
        "-o",
        str(library),
    ]
    links = [f"-L{home / 'lib'}", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{home / 'lib'}"]
    done = subprocess.run(
        [*command, *links], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise OSError(f"the device does not compile: {done.stderr[-300:]}")
    return library


def register_guard() -> None:
    """Enough for all but gradients. Raises OSError where there is no C++ compiler."""
    global _registered
    if _registered or takes_gradients():
        return
    with tempfile.TemporaryDirectory() as folder:
        ctypes.CDLL(str(_compile(Path(folder))))
    _registered = True


def takes_gradients() -> bool:
    """torch asks once, when it is loaded, whether there is a device:
    ``run_with_gradients`` is before that.
    """
    return torch.accelerator.current_accelerator() is not None


def run_with_gradients(module: str, argv: Sequence[str]) -> int:
    """``python -m module argv`` where backward runs on the device too; its exit code.

    Raises OSError where there is no C++ compiler, or something else is loaded before
    all.
    """
    if "LD_PRELOAD" in os.environ:
        raise OSError(
            f"LD_PRELOAD is {os.environ['LD_PRELOAD']}: here that is the fake"
            f" device's place"
        )
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "LD_PRELOAD": str(_compile(Path(folder)))}
        return subprocess.run(
            [sys.executable, "-m", module, *argv], env=env, check=False
        ).returncode


def to_fake(
    module: nn.Module,
    mode: FakeTensorMode,
    dtype: torch.dtype,
    *,
    trainable: bool = False,
) -> nn.Module:
    """``module``, built on the meta device, as if it were on the GPU in ``dtype``.

    ``trainable``: parameters that require gradients still do. What parts share stays
    shared.
    """
    made: dict[Tensor, nn.Parameter] = {}
    for part in module.modules():
        for name, tensor in list(part._parameters.items()):
            if tensor is not None and tensor not in made:
                fake = FakeTensor(mode, tensor.detach().to(dtype), DEVICE)
                made[tensor] = nn.Parameter(
                    fake, requires_grad=trainable and tensor.requires_grad
                )
            if tensor is not None:
                part._parameters[name] = made[tensor]
        for name, tensor in list(part._buffers.items()):
            if tensor is not None:
                part._buffers[name] = FakeTensor(mode, tensor.to(dtype), DEVICE)
    return module


class LiveStorages(TorchDispatchMode):
    """Counts the bytes of the device that operators' results hold: ``live`` now,
    ``peak`` at most.

    Tensors made before this mode are not counted, nor are views of them. Each storage
    counts once, for as long as something holds it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = {tensor.untyped_storage()._cdata for tensor in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            if tensor.device.type == DEVICE.type:
                self._hold(tensor.untyped_storage(), given)
        return result

    def _hold(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._seen and key not in given:
            self._seen.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_iter(tree) if isinstance(leaf, Tensor))


class Flops(TorchDispatchMode):
    """Adds up ``total``, the operations of matrix products, convolutions and attention,
    as torch's table counts them.

    torch's own FlopCounterMode keeps what gradient checkpointing lets go, so that no
    memory could be counted beside it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result


class PlainScheduler:
    """Stands for diffusers' ones, which read numbers off CPU tensors: in this mode no
    tensor has any.
    """

    init_noise_sigma = 1.0

    def __init__(self, _name: str, num_inference_steps: int, _noise: object) -> None:
        self.timesteps = torch.arange(num_inference_steps)

    def scale_model_input(
        self, sample: torch.Tensor, _timestep: torch.Tensor
    ) -> torch.Tensor:
        return sample

    def step(
        self, noise_pred: torch.Tensor, _timestep: torch.Tensor, sample: torch.Tensor
    ) -> SimpleNamespace:
        return SimpleNamespace(prev_sample=sample - 0.1 * noise_pred)
