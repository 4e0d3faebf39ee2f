"""Kernels that are compiled without a GPU are those that a worker asks for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from builder.kernels import ARCHITECTURES

ROOT = Path(__file__).parents[2]


def run(*arguments: str, cache: Path) -> str:
    """Run Python with Triton's cache in ``cache``; return what it prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "TRITON_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.slow
def test_a_worker_finds_every_kernel_in_the_baked_cache(tmp_path: Path) -> None:
    """It writes nothing there, and compiles nothing."""
    only = ("--architectures", "90", "--dtypes", "float16")
    printed = run("-m", "builder.kernels", str(tmp_path), *only, cache=tmp_path)
    files = {path.suffix for path in tmp_path.glob("*/*")}
    assert files == {".cubin", ".json", ".so"}
    kernels = len(list(tmp_path.glob("*/*.cubin")))
    assert printed == f"{kernels} kernels for 1 architectures\n"
    assert list(tmp_path.glob("*/cuda_utils*.so"))

    before = sorted(tmp_path.rglob("*"))
    worker = json.loads(run("-m", "tests.builder.kernel_cache", cache=tmp_path))
    assert worker["misses"] == []
    assert 0.75 * kernels < worker["hits"] <= kernels
    assert sorted(tmp_path.rglob("*")) == before


EVERY_CARD = """
from builder import kernels
from triton.runtime.driver import driver
import torch
for architecture in kernels.ARCHITECTURES:
    driver.set_active(kernels.ArchitectureDriver(architecture))
    with kernels.forced_kernels(), torch.inference_mode():
        for dtype in kernels.DTYPES.values():
            kernels.temporal_call(320, 8, 16, dtype)
"""


@pytest.mark.slow
def test_kernels_compile_for_every_card(tmp_path: Path) -> None:
    """The one with products on tensor cores, which differ most between cards."""
    run("-c", EVERY_CARD, cache=tmp_path)
    groups = [json.loads(path.read_text()) for path in tmp_path.glob("*/attend_*.json")]
    targets = sorted(group["target"]["arch"] for group in groups)
    assert targets == sorted([*ARCHITECTURES, *ARCHITECTURES])
