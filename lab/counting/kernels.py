"""Count what a model launches on a CUDA device that computes nothing.

For each operator: kernels, operations, and the bytes it reads and writes, each tensor
once. Products (matrix products, convolutions and attention) work on operands; all else
is glue. A view launches nothing.
"""

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._prims_common import suggest_memory_format
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

from animatediff.kernels.gpu.norms import is_whole
from lab.counting.fake_cuda import DEVICE, LiveStorages

REST = "rest"
"""The part of what runs outside all named modules."""
_PRODUCTS = {
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "convolution",
    "attention",
    "temporal_attention",
}
_COPIES = {"clone", "copy_", "_to_copy"}
_NOTHING = {
    "_unsafe_view",
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
}
"""Operators that launch nothing, beside views."""


@torch.library.custom_op("lab::attention", mutates_args=())
def _attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    raise NotImplementedError


@_attention.register_fake
def _(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Answer (b, heads, n, d) laid out as (b, n, heads, d), as flash attention does."""
    del keys, values
    b, heads, n, d = queries.shape
    return queries.new_empty(b, n, heads, d).transpose(1, 2)


def _sdpa(queries: Tensor, keys: Tensor, values: Tensor, **how: Any) -> Tensor:
    how = {key: value for key, value in how.items() if value}
    if how:
        raise NotImplementedError(f"attention with {', '.join(how)}")
    return torch.ops.lab.attention(queries, keys, values)


@contextmanager
def one_kernel_attention() -> Generator[None]:
    """Let PyTorch's attention be one operator; on a CPU it would be several."""
    with patch.object(F, "scaled_dot_product_attention", _sdpa):
        yield


@dataclass
class Tally:
    """What one part of a model launched; ``peak`` is the most live bytes within it."""

    kernels: int = 0
    glue_kernels: int = 0
    flops: int = 0
    glue_bytes: int = 0
    operand_bytes: int = 0
    layout_bytes: int = 0
    """Of ``glue_bytes``: copies of a tensor into another layout."""
    peak: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        sums = {
            key: value + getattr(other, key)
            for key, value in vars(self).items()
            if key != "peak"
        }
        return Tally(**sums, peak=max(self.peak, other.peak))

    def add(self, name: str, launches: "Launches", flops: int) -> None:
        """Add one operator."""
        self.kernels += launches.kernels
        self.flops += flops
        if name in _PRODUCTS:
            self.operand_bytes += launches.moved
        else:
            self.glue_kernels += launches.kernels
            self.glue_bytes += launches.moved


@dataclass(frozen=True)
class Launches:
    """The kernels of one operator, and the bytes that they move."""

    kernels: int
    moved: int


class Kernels(TorchDispatchMode):
    """Count into ``parts``: a tally for each name that ``watch`` gave to modules.

    Runs inside ``live``, whose bytes are the peaks, and inside a FakeTensorMode.
    """

    def __init__(self, live: LiveStorages) -> None:
        super().__init__()
        self.parts: dict[str, Tally] = {REST: Tally()}
        self._live = live
        self._inside: list[str] = [REST]

    @property
    def total(self) -> Tally:
        """The sum of all parts."""
        return sum(self.parts.values(), Tally())

    def watch(self, model: nn.Module, names: Mapping[str, str]) -> None:
        """Count what runs inside modules of a class under the name of their part."""
        for module in model.modules():
            if name := names.get(type(module).__name__):
                self.parts.setdefault(name, Tally())
                module.register_forward_pre_hook(self._entering(name))
                module.register_forward_hook(self._leave)

    def _entering(self, name: str) -> Callable[..., None]:
        def enter(*_: object) -> None:
            self._inside.append(name)

        return enter

    def _leave(self, *_: object) -> None:
        self._inside.pop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        part = self.parts[self._inside[-1]]
        part.peak = max(part.peak, self._live.live)
        name = func._overloadpacket.__name__
        if func.is_view or name in _NOTHING or not _on_device(result):
            return result
        inputs, outputs = list(_tensors((args, kwargs))), list(_tensors(result))
        moved = sum(map(_touched, (*inputs, *outputs)))
        count = _COUNTS.get(name, _plain)
        part.add(name, count(moved, args), _flops(func, args, kwargs, result))
        if name == "convolution":
            _count_convolution(part, args, result)
        if name in _COPIES and _changes_layout(inputs[0], outputs[0]):
            part.layout_bytes += moved
        return result


def _count_convolution(part: Tally, args: Any, result: Tensor) -> None:
    """Add cuDNN's kernel for a bias, and the copy of an image into the layout."""
    image, _, bias = args[:3]
    if bias is not None:
        part.add("bias", Launches(1, 2 * _touched(result)), 0)
    if suggest_memory_format(image) != suggest_memory_format(result):
        copied = 2 * _touched(image)
        part.add("layout", Launches(1, copied), 0)
        part.layout_bytes += copied


def _changes_layout(before: Tensor, after: Tensor) -> bool:
    """Whether the axes of two tensors with more than one position have other orders."""
    order, other = (
        [axis for axis in _axes(tensor) if tensor.shape[axis] > 1]
        for tensor in (before, after)
    )
    return before.dtype == after.dtype and order != other


def _axes(tensor: Tensor) -> list[int]:
    return sorted(range(tensor.ndim), key=lambda axis: -tensor.stride(axis))


def _plain(moved: int, _args: Any) -> Launches:
    return Launches(1, moved)


def _pytorch_group_norm(_moved: int, args: Any) -> Launches:
    """Read for the statistics, fold them, read and write: three kernels."""
    return Launches(3, 3 * _touched(args[0]))


def _own_group_norm(moved: int, args: Any) -> Launches:
    image, groups, across_frames = args[0], args[1], args[6]
    _, channels, height, width = image.shape
    if is_whole(height * width * across_frames, channels // groups):
        return Launches(1, moved)
    return Launches(3, moved + _touched(image))


_COUNTS: Mapping[str, Callable[[int, Any], Launches]] = {
    "native_group_norm": _pytorch_group_norm,
    "group_norm": _own_group_norm,
}


def _flops(func: Any, args: Any, kwargs: Any, result: Any) -> int:
    name = func._overloadpacket.__name__
    if name == "attention":
        queries, keys, _ = args
        return 4 * queries.numel() * keys.shape[2]
    if name == "temporal_attention":
        return 4 * args[0].numel() * args[3]
    count = flop_registry.get(func._overloadpacket)
    return count(*args, **kwargs, out_val=result) if count else 0


def _on_device(result: Any) -> bool:
    return any(tensor.device.type == DEVICE.type for tensor in _tensors(result))


def _touched(tensor: Tensor) -> int:
    """The bytes of a tensor; an expanded axis is read once."""
    values = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        values *= size if stride else 1
    return values * tensor.element_size()


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_iter(tree) if isinstance(leaf, Tensor))
