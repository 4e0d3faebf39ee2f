"""PyTorch's files: a pickle, and the numbers of the tensors beside it.

Since version 1.6 they are zip archives, before that a row of pickles with the numbers
behind them. Their pickles are read by ``pickles``, which runs nothing. Tensors are made
when they are asked for, so what a trainer kept beside the weights costs nothing.
"""

import math
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from .pickles import Maker, Makers, StandIn, Unreadable, read_pickle

ZIP = b"PK\x03\x04"
PICKLE = b"\x80"
"""The first bytes of the two kinds of file."""
_MAGIC = 0x1950A86A20F9469CFC6C
_DAMAGED = "it is cut short or damaged"
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_MOST_AXES = 16
_LONGEST_LIST = 4 << 20
"""Bytes of a zip's list of entries. That of 10,000 tensors has 1 MB."""
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    NotImplementedError,
    struct.error,
    ValueError,
    LookupError,
)
_DTYPES: Mapping[str, torch.dtype] = {
    str(value): value
    for value in cast("dict[str, object]", vars(torch)).values()
    if isinstance(value, torch.dtype)
}
_STORAGES: Mapping[str, torch.dtype] = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
    "UntypedStorage": torch.uint8,
}
"""By the last part of the classes' names: modules and underscores differ."""


@dataclass(frozen=True)
class StoredNumbers:
    """Part of a storage: ``length`` bytes from ``start`` on (None: all of it)."""

    key: str
    dtype: torch.dtype
    start: int = 0
    length: int | None = None


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor in the file: where its numbers are, and how they are arranged.

    ``offset`` and ``stride`` count numbers.
    """

    numbers: StoredNumbers
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def fits(self, available: int) -> bool:
        """Whether its numbers are among ``available`` bytes, none of them twice."""
        axes = zip(self.shape, self.stride, strict=True)
        last = self.offset + sum((size - 1) * step for size, step in axes)
        end = (last + 1) * self.dtype.itemsize
        return self.size == 0 or max(end, self.size) <= available


@dataclass(frozen=True)
class OddTensor:
    """A tensor that is no plain table of numbers; ``kind`` says what it is."""

    kind: str


@dataclass(frozen=True)
class _Place:
    start: int
    length: int


@dataclass(eq=False)
class TorchFile:
    """The content of a file: plain values, stand-ins, and tensors yet to be made."""

    path: Path
    content: object
    _places: Mapping[str, _Place]
    _storages: dict[str, Any] = field(default_factory=dict[str, Any])

    def tensor(self, stored: StoredTensor) -> Tensor | None:
        """The tensor, its numbers mapped from the file; None if they are not there."""
        place = self._places.get(stored.numbers.key)
        length = _length(stored.numbers, place)
        if place is None or length is None or not stored.fits(length):
            return None
        if stored.size == 0:
            return torch.empty(stored.shape, dtype=stored.dtype)
        start = stored.numbers.start
        numbers = self._storage(stored.numbers.key, place)[start : start + length]
        empty: Any = torch.empty(0, dtype=stored.dtype)
        return empty.set_(numbers, stored.offset, stored.shape, stored.stride)

    def _storage(self, key: str, place: _Place) -> Any:
        if key not in self._storages:
            whole = self._mapped[place.start : place.start + place.length]
            is_aligned = place.start % 8 == 0
            self._storages[key] = whole if is_aligned else whole.clone()
        return self._storages[key]

    @cached_property
    def _mapped(self) -> Any:
        storage_class: Any = torch.UntypedStorage
        return storage_class.from_file(str(self.path), False, self.path.stat().st_size)


def _length(numbers: StoredNumbers, place: _Place | None) -> int | None:
    if place is None:
        return None
    left = place.length - numbers.start
    return left if numbers.length is None else min(left, numbers.length)


def read_torch_file(path: Path) -> TorchFile:
    """Read the pickle of a file that begins with ``ZIP`` or ``PICKLE``.

    Raises Unreadable with the reason why the file is not read, and OSError.
    """
    with path.open("rb") as file:
        is_zip = file.read(len(ZIP)) == ZIP
        file.seek(0)
        return _read_zip(path, file) if is_zip else _read_pickles(path, file)


def _read_zip(path: Path, file: IO[bytes]) -> TorchFile:
    places = _entries(file, path.stat().st_size)
    name = next((name for name in places if name.endswith("data.pkl")), None)
    if name is None:
        raise Unreadable("it is a zip archive without PyTorch's data.pkl")
    root = name.removesuffix("data.pkl")
    if f"{root}constants.pkl" in places:
        raise Unreadable("it is a TorchScript program, not a file of weights")
    if (order := places.get(f"{root}byteorder")) is not None:
        file.seek(order.start)
        _check_order(is_little=file.read(min(order.length, 6)) == b"little")
    file.seek(places[name].start)
    content = read_pickle(file, _MAKERS, _Storages().resolve)
    data = f"{root}data/"
    numbers = {
        entry.removeprefix(data): place
        for entry, place in places.items()
        if entry.startswith(data)
    }
    return TorchFile(path, content, numbers)


class _ShortReads:
    """A file for ``zipfile``, which reads the list of entries at once."""

    def __init__(self, file: IO[bytes]) -> None:
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self._file = file

    def read(self, size: int = -1) -> bytes:
        most = _LONGEST_LIST + 1
        content = self._file.read(most if size < 0 else min(size, most))
        if len(content) == most:
            raise Unreadable("its list of entries is longer than any weight file's")
        return content


def _entries(file: IO[bytes], size: int) -> dict[str, _Place]:
    """Where the content of each entry is. PyTorch stores them as they are."""
    try:
        infos = zipfile.ZipFile(cast("IO[bytes]", _ShortReads(file))).infolist()
        places = {info.filename: _place(file, info) for info in infos}
    except (*_ZIP_ERRORS, OSError) as error:
        raise Unreadable(_DAMAGED) from error
    if sum(place.length for place in places.values()) > size:
        raise Unreadable(_DAMAGED)
    return places


def _place(file: IO[bytes], info: zipfile.ZipInfo) -> _Place:
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise Unreadable(
            "its entries are compressed or encrypted, which PyTorch's never are"
        )
    file.seek(info.header_offset)
    signature, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    if signature != ZIP:
        raise Unreadable(_DAMAGED)
    start = info.header_offset + _LOCAL_HEADER.size + name + extra
    return _Place(start, info.file_size)


def _read_pickles(path: Path, file: IO[bytes]) -> TorchFile:
    """Source of the order: ``_legacy_save`` of PyTorch's serialization.py."""
    if read_pickle(file) != _MAGIC:
        raise Unreadable("it is a pickle, but not one of PyTorch's")
    read_pickle(file)  # the version of this layout; there has been only one
    system = read_pickle(file)
    if isinstance(system, dict):
        little = cast("dict[object, object]", system).get("little_endian", True)
        _check_order(is_little=bool(little))
    storages = _Storages()
    content = read_pickle(file, _MAKERS, storages.resolve)
    keys = read_pickle(file)
    if not isinstance(keys, list):
        raise Unreadable(_DAMAGED)
    places: dict[str, _Place] = {}
    for key in cast("list[object]", keys):
        if not isinstance(key, str):
            raise Unreadable(_DAMAGED)
        size = storages.dtypes.get(key, torch.uint8).itemsize
        count = int.from_bytes(file.read(8), "little")
        places[key] = place = _Place(file.tell(), count * size)
        if place.start + place.length > path.stat().st_size:
            raise Unreadable(_DAMAGED)
        file.seek(place.length, 1)
    return TorchFile(path, content, places)


def _check_order(*, is_little: bool) -> None:
    if not is_little:
        raise Unreadable("its numbers are big-endian")


@dataclass(frozen=True)
class _Storages:
    """Resolves the persistent ids of storages, and notes the type of each."""

    dtypes: dict[str, torch.dtype] = field(default_factory=dict[str, torch.dtype])

    def resolve(self, pid: object) -> object:
        """Return the numbers that ``pid`` means."""
        items = cast("tuple[object, ...]", pid) if isinstance(pid, tuple) else ()
        match items:
            case ("storage", StandIn() as kind, str() as key, _, _, *view):
                return self._numbers(kind, key, view)
            case ("module", StandIn() as kind, *_):  # a class, with its source
                return kind
            case _:
                return StandIn("persistent", is_object=True)

    def _numbers(self, kind: StandIn, key: str, view: Sequence[object]) -> object:
        dtype = _STORAGES.get(kind.name.rpartition(".")[2].lstrip("_"))
        if dtype is None:
            return kind
        self.dtypes.setdefault(key, dtype)
        if not view or view[0] is None:
            return StoredNumbers(key, dtype)
        _, offset, count = cast("tuple[object, ...]", view[0])
        start, length = (n * dtype.itemsize for n in _counts((offset, count)))
        return StoredNumbers(key, dtype, start, length)


def _tensor(arguments: tuple[object, ...], dtype: object = None) -> object:
    numbers, offset, shape, stride = arguments[:4]
    if not isinstance(numbers, StoredNumbers):
        kind = numbers.name if isinstance(numbers, StandIn) else "no storage"
        return OddTensor(kind)
    (offset,), shape, stride = _counts((offset,)), _counts(shape), _counts(stride)
    if len(shape) != len(stride):
        raise ValueError
    name = dtype.name if isinstance(dtype, StandIn) else ""
    number_type = _DTYPES.get(name, numbers.dtype)
    return StoredTensor(numbers, number_type, offset, shape, stride)


def _counts(values: object) -> tuple[int, ...]:
    """``values`` as numbers from 0. Raises ValueError if they are none."""
    if not isinstance(values, tuple):
        raise ValueError
    items = cast("tuple[object, ...]", values)[: _MOST_AXES + 1]
    counts = tuple(item for item in items if isinstance(item, int) and item >= 0)
    if len(counts) < len(items) or len(items) > _MOST_AXES:
        raise ValueError
    return counts


def _of_type(arguments: tuple[object, ...]) -> object:
    """Make the tensor of a class of tensors, or one with attributes."""
    function, _, inner, *_ = arguments
    maker = _TENSORS.get(function.name) if isinstance(function, StandIn) else None
    if maker is None or not isinstance(inner, tuple):
        return OddTensor("a class of tensors")
    return maker(cast("tuple[object, ...]", inner))


def _odd(kind: str) -> Maker:
    return lambda _: OddTensor(kind)


def _first(arguments: tuple[object, ...]) -> object:
    return arguments[0]


def _sparse(arguments: tuple[object, ...]) -> object:
    layout = arguments[0]
    return OddTensor(
        layout.removeprefix("torch.") if isinstance(layout, str) else "sparse"
    )


def _meta(arguments: tuple[object, ...]) -> object:
    dtype = arguments[0]
    name = dtype.name if isinstance(dtype, StandIn) else ""
    return OddTensor(f"{name.removeprefix('torch.')}, meta")


_TENSORS: Makers = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": lambda args: _tensor(args, args[6]),
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_meta_tensor_no_storage": _meta,
    "torch._utils._rebuild_qtensor": _odd("quantised"),
    "torch._utils._rebuild_nested_tensor": _odd("nested"),
    "torch._utils._rebuild_wrapper_subclass": _odd("a class of tensors"),
    "torch._utils._rebuild_device_tensor_from_numpy": _odd("of another device"),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _odd("of another device"),
}
_MAKERS: Makers = {
    **_TENSORS,
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch.nn.parameter.Parameter": _first,
    "torch.nn.Parameter": _first,
    "torch.Size": _first,
    "torch.serialization._get_layout": _first,
}
