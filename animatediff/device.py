"""The device of this machine: which one, in which precision, with how much memory."""

from typing import Any

import torch

from .errors import ConfigurationError
from .memory import CONTEXT_BYTES
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
    """Return the bytes for weights and work; None if there is no limit, on a CPU."""
    if settings.device_memory_bytes is not None:
        return settings.device_memory_bytes
    if device.type == "cuda":
        untyped: Any = torch.cuda
        return untyped.get_device_properties(device).total_memory - CONTEXT_BYTES
    return None


def free_memory(device: torch.device) -> None:
    """Return cached memory of the device to it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
