"""Compile the Triton kernels of ``animatediff.kernels`` without a GPU.

``python -m builder.kernels FOLDER`` fills FOLDER as TRITON_CACHE_DIR, in the same place
as the worker has it: Triton notes whole paths. The operators run as in the worker, on
small CPU tensors, with a driver that names the architecture and launches nothing. So
the keys of the cache are the worker's own.
"""

import argparse
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from animatediff.kernels.attention import temporal_attention
from animatediff.kernels.choice import forced_kernels
from animatediff.kernels.elementwise import conv_residual, geglu
from animatediff.kernels.normalization import (
    add_layer_norm,
    group_norm,
    layer_norm,
)

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
"""A100; A10, A40 and RTX 30; L4, L40 and RTX 40; H100 and H200; B200; RTX 50."""
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
FRAMES = (16, 32, 64)
"""Lengths to which the kernel fills up a clip."""


@dataclass(frozen=True)
class Shapes:
    """The channels of a family's models that reach a kernel.

    ``images`` and ``pictures`` stand in front of GroupNorms, of UNet and VAE;
    ``tokens`` are those of the levels.
    """

    images: Sequence[int]
    tokens: Sequence[int]
    groups: int
    pictures: Sequence[int]
    picture_groups: int
    heads: int = 8


FAMILIES = (
    Shapes(
        (320, 640, 960, 1280, 1920, 2560), (320, 640, 1280), 32, (128, 256, 512), 32
    ),
    Shapes((32, 64, 96, 128), (32, 64), 8, (16, 32, 64), 2),
)
"""The published models, and the embedded ones."""


class _Utilities:
    """Stand for the driver's: a kernel is loaded, and nothing happens."""

    def load_binary(self, *_: object) -> tuple[int, int, int, int, int]:
        return 0, 0, 0, 0, 1024

    def get_device_properties(self, _device: int) -> dict[str, int]:
        return {"max_shared_mem": 1 << 20}


class _Launcher:
    def __init__(self, _source: object, _metadata: object) -> None:
        pass

    def __call__(self, *_: object) -> None:
        pass


class ArchitectureDriver:
    """A driver for a GPU that is not there; 90 is the architecture of an H100."""

    def __init__(self, architecture: int) -> None:
        from triton.backends.compiler import GPUTarget

        self._device = architecture
        self._target = GPUTarget("cuda", architecture, 32)
        self.utils = _Utilities()
        self.launcher_cls = _Launcher

    def get_current_target(self) -> Any:
        """Return what the compiler must know of the device."""
        return self._target

    def get_current_device(self) -> int:
        """Return the architecture, so that each has kernels of its own in a process."""
        return self._device

    def get_current_stream(self, _device: int) -> int:
        """Return the default stream."""
        return 0


def operator_calls(shapes: Shapes, dtype: torch.dtype) -> Iterator[Callable[[], Any]]:
    """Yield calls that together need every variant of the kernels for a family."""
    for width in shapes.images:
        yield from _group_norms(width, shapes.groups, dtype)
    for width in shapes.pictures:
        yield from _group_norms(width, shapes.picture_groups, dtype)
        yield partial(_conv_residual, width, dtype)
    for width, frames in product(shapes.tokens, FRAMES):
        yield partial(temporal_call, width, shapes.heads, frames, dtype)
    for width in shapes.tokens:
        yield partial(_conv_residual, width, dtype)
        yield partial(geglu, torch.empty(1, 1, 8 * width, dtype=dtype))
        yield from _layer_norms(width, dtype)


def _group_norms(
    width: int, groups: int, dtype: torch.dtype
) -> Iterator[Callable[[], Tensor]]:
    weight = torch.empty(width, dtype=dtype)
    for side, (silu, added) in product(
        (4, 160), ((True, True), (True, False), (False, False))
    ):
        x = torch.empty(1, side, side, width, dtype=dtype).permute(0, 3, 1, 2)
        row = weight if added else None
        yield partial(group_norm, x, groups, weight, weight, 1e-5, silu, added=row)


def _conv_residual(width: int, dtype: torch.dtype) -> Tensor:
    x = torch.empty(1, 1, 1, width, dtype=dtype).permute(0, 3, 1, 2)
    weight = torch.empty(width, width, 1, 1, dtype=dtype)
    return conv_residual(x, weight, weight[0, :, 0, 0].contiguous(), x)


def temporal_call(width: int, heads: int, frames: int, dtype: torch.dtype) -> Tensor:
    """Attend along the frames at one position, from parts of one product."""
    queries, keys, values = torch.empty(frames, 1, 3 * width, dtype=dtype).chunk(3, -1)
    return temporal_attention(queries, keys, values, frames, heads, _unused)


def _unused(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    raise AssertionError((queries.shape, keys.shape, values.shape))


def _layer_norms(width: int, dtype: torch.dtype) -> Iterator[Callable[[], Any]]:
    x, weight = torch.empty(2, 1, width, dtype=dtype), torch.empty(width, dtype=dtype)
    for table in (None, x[0]):
        yield partial(layer_norm, x, weight, weight, 1e-5, table)
        yield partial(add_layer_norm, x, x, weight, weight, 1e-5, table)


def compile_kernels(
    architectures: Sequence[int], dtypes: Sequence[torch.dtype]
) -> None:
    """Compile all variants into Triton's cache."""
    from triton.runtime.driver import driver

    for architecture in architectures:
        driver.set_active(ArchitectureDriver(architecture))  # pyright: ignore[reportArgumentType]
        with forced_kernels(), torch.inference_mode():
            for shapes, dtype in product(FAMILIES, dtypes):
                for call in operator_calls(shapes, dtype):
                    call()


def compile_driver() -> Path:
    """Compile Triton's binding of the CUDA driver into its cache; return the file.

    A worker without a C compiler needs it. It is linked to a libcuda.so.1 of empty
    functions: the real one comes with the GPU. Raises OSError where there is no C
    compiler.
    """
    from triton import knobs
    from triton.backends.nvidia import driver

    with tempfile.TemporaryDirectory() as folder:
        _compile_stub(Path(folder), Path(driver.dirname, "driver.c").read_text())
        knobs.nvidia.libcuda_path = folder
        try:
            driver.CudaUtils()
        except ImportError as error:  # it is compiled, and cannot be loaded here
            if "libcuda.so.1" not in str(error):
                raise
    return next(Path(knobs.cache.dir).glob("*/cuda_utils*.so"))


def _compile_stub(folder: Path, source: str) -> None:
    """Compile a libcuda.so.1 with all functions of the driver that ``source`` calls."""
    names = sorted(set(re.findall(r"\bcu[A-Z]\w+", source)))
    code = "\n".join(f"void {name}(void) {{}}" for name in names)
    subprocess.run(  # noqa: S603 - a fixed command
        [
            *("gcc", "-shared", "-fPIC", "-x", "c", "-"),
            *("-Wl,-soname,libcuda.so.1", "-o", str(folder / "libcuda.so.1")),
        ],
        input=code,
        text=True,
        check=True,
    )


def remove_stages(folder: Path) -> None:
    """Remove what the compiler writes on the way; a worker reads the result alone."""
    for file in folder.glob("*/*"):
        if file.suffix not in (".cubin", ".json", ".so"):
            file.unlink()


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--architectures", type=int, nargs="+", default=ARCHITECTURES, metavar="90"
    )
    parser.add_argument("--dtypes", nargs="+", default=tuple(DTYPES), choices=DTYPES)
    arguments = parser.parse_args()
    os.environ["TRITON_CACHE_DIR"] = str(arguments.folder.resolve())
    compile_driver()
    compile_kernels(
        arguments.architectures, [DTYPES[name] for name in arguments.dtypes]
    )
    remove_stages(arguments.folder)
    kernels = sum(1 for _ in arguments.folder.glob("*/*.cubin"))
    print(f"{kernels} kernels for {len(arguments.architectures)} architectures")


if __name__ == "__main__":
    main()
