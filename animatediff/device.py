"""The device of this machine: which one, in which precision, with how much memory.

And what a failure says about it.
"""

import re
from enum import Enum
from typing import Any

import torch

from .errors import ConfigurationError, led_by
from .settings import Settings


def choose_device(name: str) -> torch.device:
    """Return the device that ``name`` (or "auto") means on this machine.

    Raises ConfigurationError if it cannot be used.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigurationError(
            f"ANIMATEDIFF_DEVICE is {name!r}, which cannot be used on this machine",
            setting="ANIMATEDIFF_DEVICE",
        ) from error
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the precision that ``name`` (or "auto") means on ``device``."""
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    return getattr(torch, name)


def device_room(settings: Settings, device: torch.device) -> int | None:
    """Return the bytes for weights and work; None if there is no limit, on a CPU.

    Those are the free bytes of the device, and those that torch holds already, for
    loaded weights too. The driver's context and other processes have the rest.
    """
    if settings.device_memory_bytes is not None:
        return settings.device_memory_bytes
    if device.type == "cuda":
        untyped: Any = torch.cuda
        free: int = untyped.mem_get_info(device)[0]
        return free + torch.cuda.memory_reserved(device)
    return None


def spare_memory(device: torch.device) -> int:
    """Return the free bytes of a GPU, torch's cache included; 0 for a CPU."""
    if device.type != "cuda":
        return 0
    untyped: Any = torch.cuda
    free: int = untyped.mem_get_info(device)[0]
    return free + untyped.memory_reserved(device) - untyped.memory_allocated(device)


def free_memory(device: torch.device) -> None:
    """Return cached memory of the device to it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


class Trouble(Enum):
    """A fault of a device, as an error shows it."""

    MEMORY = "memory"
    """It has too little memory for this work; less work may fit."""
    BROKEN = "broken"
    """Its later answers may be wrong, or there may be none: replace the worker."""


_NO_MEMORY = re.compile(
    r"out of memory|OutOfMemory|ALLOC(?:ATION)?_FAILED|DefaultCPUAllocator"
    r"|unable to find (?:a valid cuDNN algorithm|an engine to execute)",
    re.IGNORECASE,
)
_DEVICE_ERROR = re.compile(
    r"\b(?:cuda|hip|cudnn|cufft|cusolver|nvrtc|nccl|miopen|triton)\b"
    r"(?: \w+)?:? error\b"
    r"|\b(?:cudnn|cublas|cusolver|cusparse|rocblas|hipblas)_status_\w+"
    r"|\b(?:nccl\w*error|miopenstatus)|unhandled cuda error|cuda driver"
    r"|no cuda gpus|cuda-capable device|cuda unknown error|nvidia driver"
    r"|out of resource",
    re.IGNORECASE,
)


def trouble_of(error: BaseException) -> Trouble | None:
    """Return what ``error``, or an error behind it, says about the device.

    None if it says nothing. The libraries beneath torch (cuDNN, cuBLAS, NCCL, Triton)
    report both kinds of trouble as RuntimeError, and only the text tells them apart.
    Other classes are not read: their texts may quote a job or its files.
    """
    for each in led_by(error):
        if isinstance(each, torch.OutOfMemoryError | MemoryError):
            return Trouble.MEMORY
        if _is_from_below(each) and (trouble := _trouble_in(str(each))):
            return trouble
        if isinstance(each, torch.AcceleratorError):
            return Trouble.BROKEN
    return None


def _is_from_below(error: BaseException) -> bool:
    """Whether ``error`` comes from torch, or from Triton, which has own classes."""
    return isinstance(error, RuntimeError) or type(error).__module__.startswith(
        "triton"
    )


def _trouble_in(text: str) -> Trouble | None:
    if _NO_MEMORY.search(text):
        return Trouble.MEMORY
    return Trouble.BROKEN if _DEVICE_ERROR.search(text) else None


def answers(device: torch.device) -> bool:
    """Whether ``device`` still works. A broken one reports its error at every call."""
    if device.type != "cuda":
        return True
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return False
    return True
