"""Simulate a CUDA device, whose operators check shapes and dtypes and compute nothing.

torch's FakeTensorMode does that, but for two parts that a CPU build lacks: a device
guard for CUDA, and, for gradients, hooks that report a device. Both are compiled here,
with the few functions that torch calls.
"""

import ctypes
import os
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch._prims_common import suggest_memory_format
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
  void record(void**, const c10::Stream&, const c10::DeviceIndex,
              const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void synchronizeEvent(void*) const override {}
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
    """Return the path of the library. Raises OSError where there is no C++ compiler."""
    home = Path(torch.__file__).parent
    source, library = folder / "fake_cuda.cpp", folder / "fake_cuda.so"
    source.write_text(_LIBRARY)
    compiler = ["g++", "-shared", "-fPIC", "-std=c++20", f"-I{home / 'include'}"]
    files = [str(source), "-o", str(library)]
    links = [f"-L{home / 'lib'}", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{home / 'lib'}"]
    command = [*compiler, *files, *links]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"the device does not compile: {done.stderr[-300:]}")
    return library


def register_guard() -> None:
    """Load the device, without gradients. Raises OSError without a C++ compiler.

    From then on ordinary memory stands for page-locked memory, which a driver has.
    """
    global _registered
    if _registered or takes_gradients():
        return
    with tempfile.TemporaryDirectory() as folder:
        ctypes.CDLL(str(_compile(Path(folder))))
    setattr(Tensor, "pin_memory", Tensor.clone)  # noqa: B010 - types forbid "="
    _registered = True


def takes_gradients() -> bool:
    """Return whether backward runs on the device in this process.

    torch looks for a device once, when it is loaded. ``run_with_gradients`` starts a
    process that has the device before.
    """
    return torch.accelerator.current_accelerator() is not None


def run_with_gradients(module: str, argv: Sequence[str]) -> int:
    """Run ``python -m module argv`` where backward runs on the device too.

    Returns the exit code. Raises OSError where there is no C++ compiler, or where
    LD_PRELOAD is in use.
    """
    if "LD_PRELOAD" in os.environ:
        raise OSError(
            f"LD_PRELOAD is {os.environ['LD_PRELOAD']}: here that is the fake"
            f" device's place"
        )
    command = [sys.executable, "-m", module, *argv]
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "LD_PRELOAD": str(_compile(Path(folder)))}
        return subprocess.run(command, env=env, check=False).returncode


def to_fake(
    module: nn.Module,
    mode: FakeTensorMode,
    dtype: torch.dtype,
    *,
    trainable: bool = False,
) -> nn.Module:
    """Turn ``module``, built on the meta device, into one on the GPU in ``dtype``.

    ``trainable``: parameters that require gradients keep that. A tensor that several
    parts share stays shared.
    """

    def fake(tensor: Tensor) -> FakeTensor:
        return FakeTensor(mode, tensor.detach().to(dtype), DEVICE)

    parameters: dict[Tensor, nn.Parameter] = {}
    for part in module.modules():
        for name, tensor in _present(part._parameters):
            if tensor not in parameters:
                grad = trainable and tensor.requires_grad
                parameters[tensor] = nn.Parameter(fake(tensor), requires_grad=grad)
            part._parameters[name] = parameters[tensor]
        for name, tensor in _present(part._buffers):
            part._buffers[name] = fake(tensor)
    return module


def _present(
    tensors: Mapping[str, Tensor | None],
) -> list[tuple[str, Tensor]]:
    return [(name, tensor) for name, tensor in tensors.items() if tensor is not None]


class CudnnLayouts(TorchDispatchMode):
    """Let convolutions answer in cuDNN's layout.

    That is channels_last where the image or the weight is. A CPU build of torch would
    answer NCHW. Runs inside a FakeTensorMode.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is not torch.ops.aten.convolution.default or result.ndim != 4:
            return result
        layouts = {suggest_memory_format(tensor) for tensor in args[:2]}
        if torch.channels_last not in layouts:
            return result
        return torch.empty_like(result, memory_format=torch.channels_last)


class LiveStorages(TorchDispatchMode):
    """Count the bytes of the device that operators' results hold.

    ``live`` bytes are held now, ``peak`` bytes were held at most. Tensors made before
    this mode are not counted, nor are views of them. Each storage counts once, for as
    long as something holds it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        inputs = {_key(tensor.untyped_storage()) for tensor in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            if tensor.device.type == DEVICE.type:
                self._hold(tensor.untyped_storage(), inputs)
        return result

    def _hold(self, storage: torch.UntypedStorage, inputs: set[int]) -> None:
        key, size = _key(storage), storage.nbytes()
        if key in self._seen or key in inputs:
            return
        self._seen.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


def _key(storage: torch.UntypedStorage) -> int:
    return storage._cdata


def _tensors(tree: Any) -> Iterator[Tensor]:
    for leaf in tree_iter(tree):
        if isinstance(leaf, Tensor):
            yield leaf


class Flops(TorchDispatchMode):
    """Add up ``total``, the operations of matrix products, convolutions and attention.

    torch's table counts them. torch's FlopCounterMode keeps the tensors that gradient
    checkpointing frees, so no memory could be counted at the same time.
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
    """Stand for diffusers' schedulers, which read numbers off CPU tensors.

    Under FakeTensorMode no tensor has numbers.
    """

    init_noise_sigma = 1.0

    def __init__(self, _name: str, num_inference_steps: int, _noise: object) -> None:
        self.timesteps = torch.arange(num_inference_steps)

    def scale_model_input(
        self, sample: torch.Tensor, _timestep: torch.Tensor
    ) -> torch.Tensor:
        """Return ``sample`` as it is."""
        return sample

    def step(
        self, noise_pred: torch.Tensor, _timestep: torch.Tensor, sample: torch.Tensor
    ) -> SimpleNamespace:
        """Return a step as diffusers' schedulers do."""
        return SimpleNamespace(prev_sample=sample - 0.1 * noise_pred)
