"""Weight files: .safetensors, and .ckpt, .pt and .bin pickles.

The content decides how a file is read, not its suffix. Pickles are opened without
running any code in them, see ``pickles``.
"""

import math
import re
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError
from ..fetch.weight_file import AnyFile, WeightFile
from .pickles import StandIn, Unreadable
from .torch_file import (
    PICKLE,
    ZIP,
    OddTensor,
    StoredTensor,
    TorchFile,
    read_torch_file,
)

SAFETENSORS = (".safetensors",)
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
WRAPPERS = ("state_dict", "controlnet", "string_to_param")
"""Keys under which trainers put the table of weights, beside counters and configs. The
second is SparseCtrl's, the third that of textual inversion.
"""
BARE = "*"
"""The key of a tensor that is not in a table."""

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
_LONGEST_TITLE = 100
_MOST_TENSORS = 50_000
_LONGEST_HEADER = 16 << 20
"""Bytes. The header of 10,000 tensors has 1 MB; trainers add notes to it."""
_MOST_TIED = 4
"""How often the numbers of a file may be used: by tied weights, for example."""
_OTHER_CONTENT = {
    rb"\s*<(!doctype|html|head|\?xml)": "it is a web page",
    rb"version https://git-lfs": "it is a Git LFS pointer, not the file itself",
    rb"GGUF": "it is a GGUF file",
    rb"(?s).{257}ustar": "it is a tar archive, PyTorch's layout before version 0.2",
}
"""Files that often lie where weights should be, by their first bytes."""


@dataclass(frozen=True, eq=False)
class FileContent:
    """The weights of a file by their keys.

    ``title`` is the name that the file gives itself, as textual inversions do.
    ``metadata`` are texts in the header of a safetensors file.
    """

    weights: dict[str, Tensor]
    title: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


def read_weights(file: AnyFile) -> dict[str, Tensor]:
    """Every tensor of a weight file by its key, on the CPU; see ``read_content``."""
    return read_content(file).weights


def read_content(file: AnyFile) -> FileContent:
    """Every tensor of a weight file by its key, on the CPU.

    If the table of weights lies under one of ``WRAPPERS``, only that table is read. A
    tensor without a table has the key ``BARE``.

    Raises AssetError if there is no such file, CheckpointError if it is damaged, wants
    to run code or holds something else. Objects of trainers beside the weights are
    passed over. Refused are sparse tensors, tensors larger than their content, and keys
    that cannot be printed.
    """
    file = WeightFile.of(file)
    with _readable(file):
        head = _head(file)
        if _is_safetensors(head):
            return _read_safetensors(file)
        if head.startswith((ZIP, PICKLE)):
            return _read_torch(file)
        raise Unreadable(_other_content(head))


def _head(file: WeightFile) -> bytes:
    with file.path.open("rb") as opened:
        return opened.read(512)


def _is_safetensors(head: bytes) -> bool:
    """The length of the header comes first, then the header, which is JSON."""
    return head[4:9] == b"\0\0\0\0{"


def _other_content(head: bytes) -> str:
    if not head:
        return "it is empty"
    for start, content in _OTHER_CONTENT.items():
        if re.match(start, head, re.IGNORECASE):
            return content
    return "it is neither a safetensors nor a PyTorch file"


@contextmanager
def _readable(file: WeightFile) -> Generator[None]:
    """Turn the errors of both readers into CheckpointErrors that name the file."""
    try:
        yield
    except OSError as error:
        raise _unreadable(file, error.strerror or "the disk failed") from error
    except Unreadable as error:
        raise _unreadable(file, str(error)) from error
    except (SafetensorError, RuntimeError, ValueError, LookupError) as error:
        raise _unreadable(file, "it is cut short or damaged") from error


def _unreadable(file: WeightFile, cause: str) -> CheckpointError:
    return CheckpointError(
        f"{file.name} cannot be read as weights: {cause}", file=file.name
    )


def _opened(file: WeightFile) -> Any:
    if int.from_bytes(_head(file)[:8], "little") > _LONGEST_HEADER:
        raise Unreadable(f"its header is larger than {_LONGEST_HEADER >> 20} MB")
    opener: Any = safe_open
    return opener(file.path, framework="pt")


def _read_safetensors(file: WeightFile) -> FileContent:
    with _opened(file) as opened:
        keys: list[str] = opened.keys()
        _check_count(file, len(keys))
        weights: dict[str, Tensor] = {key: opened.get_tensor(key) for key in keys}
        metadata: Mapping[str, str] = opened.metadata() or {}
    for key, tensor in weights.items():
        _check_key(file, key)
        _check_kind(file, key, tensor.dtype)
    return FileContent(weights, metadata=metadata)


def _read_torch(file: WeightFile) -> FileContent:
    opened = read_torch_file(file.path)
    outer = _as_table(opened.content)
    table = None if outer is None else _unwrapped(outer)
    if table is None:
        raise CheckpointError(f"{file.name} holds no table of weights", file=file.name)
    stored = {
        str(key): value
        for key, value in table.items()
        if isinstance(value, StoredTensor | OddTensor)
    }
    _check_count(file, len(stored))
    weights = {key: _tensor(file, key, value, opened) for key, value in stored.items()}
    size = sum(tensor.nbytes for tensor in weights.values())
    if size > _MOST_TIED * file.path.stat().st_size:
        raise CheckpointError(
            f"{file.name} claims more numbers than it holds", file=file.name
        )
    return FileContent(weights, _title((outer or {}).get("name")))


def _title(name: object) -> str | None:
    if not isinstance(name, str) or len(name) > _LONGEST_TITLE:
        return None
    return name if name.isprintable() else None


def _unwrapped(table: Mapping[object, object]) -> Mapping[object, object]:
    for wrapper in WRAPPERS:
        inner = _as_table(table.get(wrapper))
        table = table if inner is None else inner
    return table


def _as_table(value: object) -> Mapping[object, object] | None:
    """``value`` as a table: a dict, an object of a kind of dict, or a bare tensor."""
    if isinstance(value, StandIn):
        state = value.state
        if isinstance(state, dict):  # PyTorch's ParameterDict
            return _as_table(cast("dict[object, object]", state).get("_parameters"))
        return value.table
    if isinstance(value, StoredTensor):
        return {BARE: value}
    if not isinstance(value, dict):
        return None
    return cast("dict[object, object]", value)


def _tensor(
    file: WeightFile, key: str, stored: StoredTensor | OddTensor, opened: TorchFile
) -> Tensor:
    _check_key(file, key)
    if isinstance(stored, OddTensor):
        raise _not_numeric(file, key, stored.kind)
    _check_kind(file, key, stored.dtype)
    tensor = opened.tensor(stored)
    if tensor is None:
        raise CheckpointError(
            f"{file.name}: {key} claims more numbers than the file holds",
            file=file.name,
        )
    return tensor


def _check_count(file: WeightFile, count: int) -> None:
    if count == 0:
        raise CheckpointError(f"{file.name} holds no weights", file=file.name)
    if count > _MOST_TENSORS:
        raise CheckpointError(
            f"{file.name} holds {count} tensors; allowed: at most {_MOST_TENSORS}",
            file=file.name,
        )


def _check_key(file: WeightFile, key: str) -> None:
    if len(key) > _LONGEST_KEY or not key.isprintable():
        raise CheckpointError(
            f"{file.name} holds a weight whose key is not a printable name",
            file=file.name,
        )


def _check_kind(file: WeightFile, key: str, dtype: torch.dtype) -> None:
    if dtype not in _NUMBERS:
        raise _not_numeric(file, key, str(dtype).removeprefix("torch."))


def _not_numeric(file: WeightFile, key: str, kind: str) -> CheckpointError:
    return CheckpointError(
        f"{file.name}: {key} is not a table of real numbers ({kind})", file=file.name
    )


def as_half(tensor: Tensor) -> Tensor | None:
    """A copy in float16, or None if a finite number would become infinite.

    Integers and single numbers (a LoRA's alpha) keep their type.
    """
    if not tensor.is_floating_point() or tensor.numel() == 1:
        return tensor.clone().contiguous()
    half = tensor.to(torch.float16, copy=True).contiguous()
    return half if torch.isfinite(half).equal(torch.isfinite(tensor)) else None


def count_values(file: AnyFile) -> int:
    """How many numbers a weight file holds.

    The header of .safetensors has them; for other files the size is taken as if all
    numbers were float32. Raises AssetError for a missing file, CheckpointError for a
    damaged header.
    """
    file = WeightFile.of(file)
    with _readable(file):
        if not _is_safetensors(_head(file)):
            return file.path.stat().st_size // 4
        with _opened(file) as opened:
            keys: list[str] = opened.keys()
            return sum(math.prod(opened.get_slice(key).get_shape()) for key in keys)


def check_finite(name: str, weights: Mapping[str, Tensor]) -> None:
    """Do nothing if every number is finite.

    This reads each number once, on the tensor's device, and takes far less time than
    copying it. Raises CheckpointError with the first key that has NaN or infinity.
    """
    for key, tensor in weights.items():
        if not _is_finite(tensor):
            raise CheckpointError(
                f"{name} holds NaN or infinity in {key}", file=name, key=key
            )


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    if tensor.itemsize == 1:  # PyTorch cannot compare these types
        tensor = tensor.float()
    return bool(torch.stack(tensor.aminmax()).isfinite().all())


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
