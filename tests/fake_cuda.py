"""A CUDA device without a GPU: operators check shapes, dtypes and devices, and compute nothing.

torch's FakeTensorMode does all of it but one thing: a CPU build has no device guard for CUDA. A guard that does nothing
is compiled and registered here.
"""

import ctypes
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

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
