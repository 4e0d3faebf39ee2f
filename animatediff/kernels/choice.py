"""Which implementation of an operator runs. Nothing else decides it."""

import functools
import importlib.util
import subprocess
from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..errors import ConfigurationError

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
"""What the kernels take; they compute in float32."""


class _Choice:
    """``allowed`` is the setting; ``forced`` uses the kernels for every tensor."""

    allowed = True
    forced = False


def use_kernels(kernels: str) -> None:
    """Choose for this process: "auto" or "torch", PyTorch's operators alone.

    Raises ConfigurationError for another word.
    """
    if kernels not in ("auto", "torch"):
        raise ConfigurationError(
            f"kernels {kernels!r}, must be auto or torch", setting="ANIMATEDIFF_KERNELS"
        )
    _Choice.allowed = kernels == "auto"


@contextmanager
def forced_kernels() -> Generator[None]:
    """Use the kernels without asking for a device.

    For Triton's interpreter, and for simulated devices.
    """
    before = _Choice.forced
    _Choice.forced = True
    try:
        yield
    finally:
        _Choice.forced = before


def fused(*tensors: Tensor | None) -> bool:
    """Whether the kernels take ``tensors``, all of the first one's device and dtype.

    They compute no gradients.
    """
    first = tensors[0]
    if first is None or first.dtype not in DTYPES:
        return False
    if torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in tensors
    ):
        return False
    return _Choice.forced or (first.is_cuda and _Choice.allowed and not obstacle())


@functools.cache
def obstacle() -> str:
    """Return why the kernels cannot run on this machine's GPU; "" if they can.

    One small kernel is tried: Triton needs a driver, and, where its cache is empty, a C
    compiler.
    """
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if not torch.cuda.is_available():
        return "no CUDA device"
    try:
        from .gpu.elementwise import geglu

        geglu(torch.zeros(1, 64, device="cuda", dtype=torch.float16))
        torch.cuda.synchronize()
    except (
        ImportError,
        OSError,
        RuntimeError,
        AssertionError,
        subprocess.SubprocessError,
    ) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def kernel_warning() -> str:
    """Return what a user should know: kernels are wanted on this GPU and cannot run."""
    if not (_Choice.allowed and torch.cuda.is_available() and obstacle()):
        return ""
    return f"the Triton kernels cannot be used ({obstacle()}): PyTorch runs instead"
