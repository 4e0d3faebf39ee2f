"""Weight files: .safetensors, and .ckpt / .pt / .bin pickles opened so that they cannot
run code. Written whole.
"""

import math
import pickle
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..errors import AssetError, CheckpointError

SAFETENSORS = (".safetensors",)
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
WRAPPERS = ("state_dict", "controlnet", "string_to_param")
"""Keys under which trainers put the table of weights, beside counters and configs. The
second is SparseCtrl's, the third that of textual inversion.
"""

_ZIP, _PICKLE = (
    b"PK\x03\x04",
    b"\x80",
)  # how PyTorch's files begin; those from before 1.6 are bare pickles
_DAMAGED = (  # what the two readers were seen to raise over files with changed bytes
    *(
        SafetensorError,
        pickle.UnpicklingError,
        struct.error,
        RuntimeError,
        EOFError,
        ValueError,
    ),
    *(LookupError, TypeError, AttributeError, AssertionError),
)
# what can be computed with in float32: no complex, packed or quantised numbers
_NUMBERS = frozenset(
    (
        *(torch.bool, torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(
            torch.float8_e4m3fn,
            torch.float8_e4m3fnuz,
            torch.float8_e5m2,
            torch.float8_e5m2fnuz,
            torch.float8_e8m0fnu,
        ),
    )
)
_LONGEST_KEY = 500


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Every tensor of a weight file by its key, on the CPU; one of ``WRAPPERS`` around
    them is taken off.

    Raises AssetError where there is no such file, CheckpointError for one that is
    damaged or holds something else. Pickles are read with ``weights_only``: one that
    asks for anything but tensors and plain values is refused, and so are tensors that
    are sparse or larger than their content, and keys that cannot be shown.
    """
    path = Path(path)
    content = _read(path)
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.name} holds no table of weights", file=path.name)
    weights = {
        str(key): value for key, value in content.items() if isinstance(value, Tensor)
    }
    if not weights:
        raise CheckpointError(f"{path.name} holds no weights", file=path.name)
    for key, tensor in weights.items():
        if len(key) > _LONGEST_KEY or not key.isprintable():
            raise CheckpointError(
                f"{path.name} holds a weight whose key is no name", file=path.name
            )
        if (
            tensor.layout is not torch.strided
            or tensor.device.type != "cpu"
            or tensor.dtype not in _NUMBERS
        ):
            kind = f"{tensor.layout}, {tensor.dtype}, {tensor.device}".replace(
                "torch.", ""
            )
            raise CheckpointError(
                f"{path.name}: {key} is no table of real numbers ({kind})",
                file=path.name,
            )
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"{path.name}: {key} claims more numbers than the file holds",
                file=path.name,
            )
    return weights


def as_half(tensor: Tensor) -> Tensor | None:
    """A copy in float16; integers and single numbers (a LoRA's alpha) stay what they
    are.

    None for a finite number that is not one in float16.
    """
    if not tensor.is_floating_point() or tensor.numel() == 1:
        return tensor.clone().contiguous()
    half = tensor.to(torch.float16, copy=True).contiguous()
    return half if torch.isfinite(half).equal(torch.isfinite(tensor)) else None


def count_values(path: Path) -> int:
    """The numbers in a weight file: from the header of .safetensors, else from its
    size, as if all were float32.

    Raises CheckpointError for a damaged header.
    """
    if path.suffix not in SAFETENSORS:
        return path.stat().st_size // 4
    try:
        with safe_open(path, framework="pt") as file:
            return sum(
                math.prod(file.get_slice(key).get_shape())
                for key in file.keys()  # noqa: SIM118 - no mapping
            )
    except _DAMAGED as error:
        raise CheckpointError(
            f"{path.name} cannot be read as weights: {error}", file=path.name
        ) from error


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
        reason = error.strerror or "the disk failed"
        raise CheckpointError(
            f"{path.name} cannot be read as weights: {reason}", file=path.name
        ) from error
    except _DAMAGED as error:
        reason = _what_is_wrong(path, head, str(error))
        raise CheckpointError(
            f"{path.name} cannot be read as weights: {reason}", file=path.name
        ) from error


def _what_is_wrong(path: Path, head: bytes, said: str) -> str:
    if not head:
        return "it is empty"
    if code := re.search(r"GLOBAL (\S+)", said):
        return f"it wants to run code ({code[1]}), which is refused"
    if path.suffix in SAFETENSORS:
        begins_well, kind = head[8:] == b"{", "safetensors"
    else:
        begins_well, kind = head.startswith((_ZIP, _PICKLE)), "PyTorch"
    return "it is cut short or damaged" if begins_well else f"it is not a {kind} file"


def renamed(
    name: str, weights: Mapping[str, Tensor], rename: Callable[[str], str]
) -> dict[str, Tensor]:
    """``weights`` under new keys. Raises CheckpointError where two of them would share
    one.
    """
    result = {rename(key): tensor for key, tensor in weights.items()}
    if len(result) < len(weights):
        raise CheckpointError(
            f"{name} holds {len(weights) - len(result)} weights twice, under two names",
            file=name,
        )
    return result


def check_keys_and_shapes(
    name: str, got: Mapping[str, Tensor], wanted: Mapping[str, Tensor | torch.Size]
) -> None:
    """Raise CheckpointError unless ``got`` has exactly the keys and shapes of
    ``wanted``; names the first few.
    """
    shapes = {
        key: value.shape if isinstance(value, Tensor) else value
        for key, value in wanted.items()
    }
    problems = {
        "missing": sorted(shapes.keys() - got.keys()),
        "unexpected": sorted(got.keys() - shapes.keys()),
        "of another shape": sorted(
            f"{key} {tuple(got[key].shape)} instead of {tuple(shapes[key])}"
            for key in shapes.keys() & got.keys()
            if got[key].shape != shapes[key]
        ),
    }
    said = [
        f"{len(keys)} {kind} ({', '.join(keys[:3])})"
        for kind, keys in problems.items()
        if keys
    ]
    if said:
        raise CheckpointError(
            f"{name} does not fit this model: {'; '.join(said)}", file=name
        )
