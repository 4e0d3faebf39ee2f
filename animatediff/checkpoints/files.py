"""Weight files: .safetensors, and .ckpt, .pt and .bin pickles.

Pickles are opened without running any code in them.
"""

import math
import pickle
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from ..errors import AssetError, CheckpointError

SAFETENSORS = (".safetensors",)
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
WRAPPERS = ("state_dict", "controlnet", "string_to_param")
"""Keys under which trainers put the table of weights, beside counters and configs. The
second is SparseCtrl's, the third that of textual inversion.
"""

_ZIP = b"PK\x03\x04"
"""The first bytes of PyTorch's files; before version 1.6 they were bare pickles."""
_PICKLE = b"\x80"
_DAMAGED = (
    SafetensorError,
    pickle.UnpicklingError,
    struct.error,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
)
"""Errors that the two readers raised over files with changed bytes."""
_NUMBERS = frozenset(
    {
        torch.bool,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.uint8,
        torch.uint16,
        torch.uint32,
        torch.uint64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.float8_e4m3fn,
        torch.float8_e4m3fnuz,
        torch.float8_e5m2,
        torch.float8_e5m2fnuz,
        torch.float8_e8m0fnu,
    }
)
"""Types that float32 can compute with: no complex, packed or quantised numbers."""
_LONGEST_KEY = 500


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Every tensor of a weight file by its key, on the CPU.

    If the table of weights lies under one of ``WRAPPERS``, only that table is read.

    Raises AssetError if there is no such file, CheckpointError if it is damaged or
    holds something else. Pickles are read with ``weights_only``, so one that contains
    anything but tensors and plain values is refused. Also refused are sparse tensors,
    tensors larger than their content, and keys that cannot be printed.
    """
    path = Path(path)
    table = _unwrapped(path.name, _read(path))
    weights = {
        str(key): value for key, value in table.items() if isinstance(value, Tensor)
    }
    if not weights:
        raise CheckpointError(f"{path.name} holds no weights", file=path.name)
    for key, tensor in weights.items():
        _check_tensor(path.name, key, tensor)
    return weights


def _unwrapped(name: str, content: object) -> Mapping[object, object]:
    table = _as_table(content)
    for wrapper in WRAPPERS:
        inner = _as_table(table.get(wrapper)) if table is not None else None
        table = table if inner is None else inner
    if table is None:
        raise CheckpointError(f"{name} holds no table of weights", file=name)
    return table


def _as_table(value: object) -> Mapping[object, object] | None:
    if not isinstance(value, dict):
        return None
    return cast("dict[object, object]", value)


def _check_tensor(name: str, key: str, tensor: Tensor) -> None:
    if len(key) > _LONGEST_KEY or not key.isprintable():
        raise CheckpointError(
            f"{name} holds a weight whose key is not a printable name", file=name
        )
    if not _is_numeric(tensor):
        kind = f"{tensor.layout}, {tensor.dtype}, {tensor.device}"
        raise CheckpointError(
            f"{name}: {key} is not a table of real numbers"
            f" ({kind.replace('torch.', '')})",
            file=name,
        )
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(
            f"{name}: {key} claims more numbers than the file holds", file=name
        )


def _is_numeric(tensor: Tensor) -> bool:
    is_plain = tensor.layout is torch.strided and tensor.device.type == "cpu"
    return is_plain and tensor.dtype in _NUMBERS


def as_half(tensor: Tensor) -> Tensor | None:
    """A copy in float16, or None if a finite number would become infinite.

    Integers and single numbers (a LoRA's alpha) keep their type.
    """
    if not tensor.is_floating_point() or tensor.numel() == 1:
        return tensor.clone().contiguous()
    half = tensor.to(torch.float16, copy=True).contiguous()
    return half if torch.isfinite(half).equal(torch.isfinite(tensor)) else None


def count_values(path: Path) -> int:
    """How many numbers a weight file holds.

    The header of .safetensors has them; for other files the size is taken as if all
    numbers were float32. Raises CheckpointError for a damaged header.
    """
    if path.suffix not in SAFETENSORS:
        return path.stat().st_size // 4
    try:
        untyped_open: Any = safe_open
        with untyped_open(path, framework="pt") as file:
            return sum(
                math.prod(file.get_slice(key).get_shape())
                for key in file.keys()  # noqa: SIM118 - no mapping
            )
    except _DAMAGED as error:
        raise _unreadable(path, str(error)) from error


def _read(path: Path) -> object:
    if not path.is_file():
        raise AssetError(f"there is no weight file {path.name}", file=path.name)
    if path.suffix not in SAFETENSORS + PICKLES:
        raise CheckpointError(
            f"{path.name}: not a weight file, must end in"
            f" {', '.join(SAFETENSORS + PICKLES)}",
            file=path.name,
        )
    head = b""
    try:
        with path.open("rb") as file:
            head = file.read(9)
        if path.suffix in SAFETENSORS:
            return load_file(path)
        return torch.load(
            path, map_location="cpu", weights_only=True, mmap=head.startswith(_ZIP)
        )
    except OSError as error:
        raise _unreadable(path, error.strerror or "the disk failed") from error
    except _DAMAGED as error:
        raise _unreadable(path, _cause(path, head, str(error))) from error


def _unreadable(path: Path, cause: str) -> CheckpointError:
    return CheckpointError(
        f"{path.name} cannot be read as weights: {cause}", file=path.name
    )


def _cause(path: Path, head: bytes, message: str) -> str:
    if not head:
        return "it is empty"
    if code := re.search(r"GLOBAL (\S+)", message):
        return f"it wants to run code ({code[1]}), which is refused"
    if path.suffix in SAFETENSORS:
        is_begun, kind = head[8:] == b"{", "safetensors"
    else:
        is_begun, kind = head.startswith((_ZIP, _PICKLE)), "PyTorch"
    return "it is cut short or damaged" if is_begun else f"it is not a {kind} file"


def renamed(
    name: str, weights: Mapping[str, Tensor], rename: Callable[[str], str]
) -> dict[str, Tensor]:
    """``weights`` under new keys.

    Raises CheckpointError if two of them would get the same key.
    """
    result = {rename(key): tensor for key, tensor in weights.items()}
    if len(result) < len(weights):
        raise CheckpointError(
            f"{name} holds {len(weights) - len(result)} weights twice, under two names",
            file=name,
        )
    return result


def check_keys_and_shapes(
    name: str, weights: Mapping[str, Tensor], model: Mapping[str, Tensor | torch.Size]
) -> None:
    """Do nothing if ``weights`` has exactly the keys and shapes of ``model``.

    Raises CheckpointError, with the first few keys that differ, if it has not.
    """
    shapes = {
        key: value.shape if isinstance(value, Tensor) else value
        for key, value in model.items()
    }
    differences = {
        "missing": sorted(shapes.keys() - weights.keys()),
        "unexpected": sorted(weights.keys() - shapes.keys()),
        "of another shape": sorted(
            f"{key} {tuple(weights[key].shape)} instead of {tuple(shapes[key])}"
            for key in shapes.keys() & weights.keys()
            if weights[key].shape != shapes[key]
        ),
    }
    if any(differences.values()):
        raise CheckpointError(
            f"{name} does not fit this model: {in_words(differences)}", file=name
        )


def in_words(differences: Mapping[str, list[str]]) -> str:
    """Kinds of difference, each with its number of keys and the first few of them."""
    return "; ".join(
        f"{len(keys)} {kind} ({', '.join(keys[:3])})"
        for kind, keys in differences.items()
        if keys
    )
