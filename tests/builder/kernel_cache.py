"""Run every kernel that the models need, as a worker does, with a cache: no launch.

``python -m tests.builder.kernel_cache`` records the operators of the UNets and of the
decoders on a device that computes nothing. It then runs them on empty CPU tensors of
the same sizes, with a driver that launches nothing. Prints, as JSON, how many kernels
Triton found in TRITON_CACHE_DIR, and the names of those that it had to compile.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from animatediff.families import SD15
from animatediff.families.unet_config import read_unet_config
from animatediff.kernels.choice import forced_kernels
from builder.kernels import ArchitectureDriver
from lab.counting import step
from lab.counting.fake_cuda import CudnnLayouts, register_guard
from lab.counting.kernels import one_kernel_attention

SIZES = ((16, 512), (1, 64), (20, 328))
"""Frames, and pixels of a side."""
ARCHITECTURE = 90
EMBEDDED = Path(__file__).parents[2] / "models" / "shapeworld"


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies in its storage."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    dtype: torch.dtype

    def tensor(self) -> Tensor:
        """Return a tensor without content; memory that is not touched takes none."""
        last = sum(
            (size - 1) * stride
            for size, stride in zip(self.shape, self.strides, strict=True)
        )
        storage = torch.empty(self.offset + last + 1, dtype=self.dtype)
        return storage.as_strided(self.shape, self.strides, self.offset)


def _place(tensor: Tensor) -> _Place:
    shape, strides = tuple(tensor.shape), tensor.stride()
    return _Place(shape, strides, int(tensor.storage_offset()), tensor.dtype)


class _Calls(TorchDispatchMode):
    """Note the calls of the project's operators."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[str, tuple[Any, Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func.namespace == "animatediff":
            places = tree_map_only(Tensor, _place, args)
            self.made[f"{func} {places}"] = (func, places)
        return func(*args, **(kwargs or {}))


def recorded() -> Iterator[tuple[Any, Any]]:
    """Yield the operators and their arguments, each once."""
    device, calls = FakeTensorMode(allow_non_fake_inputs=True), _Calls()
    modes = (torch.no_grad(), forced_kernels(), one_kernel_attention(), device)
    with modes[0], modes[1], modes[2], modes[3], CudnnLayouts():
        for build, (frames, side) in product(models(), SIZES):
            _, run = build(device, frames, side)
            with calls:
                run()
    yield from calls.made.values()


def models() -> Iterator[step.Build]:
    """Yield the UNets and decoders of the published and of the embedded models."""
    yield step.our_unet
    yield partial(step.decoder, our_norms=True)
    unet, vae = (
        json.loads((EMBEDDED / part / "config.json").read_text())
        for part in ("unet", "vae")
    )
    yield partial(step.our_unet, config=read_unet_config(unet, SD15))
    yield partial(step.decoder, our_norms=True, config=vae)


def main() -> None:
    from triton import knobs
    from triton.runtime.driver import driver

    register_guard()
    calls = list(recorded())
    hits: list[str] = []
    misses: list[str] = []

    def note(*, src: Any, cache_hit: bool, **_: object) -> None:
        (hits if cache_hit else misses).append(src.name)

    knobs.compilation.listener = note  # pyright: ignore[reportAttributeAccessIssue]
    driver.set_active(ArchitectureDriver(ARCHITECTURE))  # pyright: ignore[reportArgumentType]
    with torch.inference_mode():
        for func, places in calls:
            func(*tree_map_only(_Place, _Place.tensor, places))
    print(json.dumps({"calls": len(calls), "hits": len(hits), "misses": misses}))


if __name__ == "__main__":
    main()
