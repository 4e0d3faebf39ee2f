"""The Triton kernels compute what their definitions do, by Triton's interpreter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BOUNDS = {"fp32": 5e-7, "fp16": 5e-4, "bf16": 5e-3}
"""Relative errors. float16 has 11 bits; the interpreter cuts bfloat16 off after 8."""
FAR_FROM_ZERO = 5e-5
"""float32 has 24 bits: 100 is rounded to 8e-6, which is 8e-5 of a deviation of 0.1."""
WIDE_BOUNDS = {"far": FAR_FROM_ZERO, "unet": 1e-5, "vae": 1e-5}
"""By the first word of a case."""


@pytest.fixture(scope="module")
def errors() -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.kernels.interpreted"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", BOUNDS)
def test_kernels_equal_their_definitions(dtype: str, errors: dict[str, float]) -> None:
    cases = {case: error for case, error in errors.items() if dtype in case}
    assert len(cases) > 30
    for case, error in cases.items():
        bound = WIDE_BOUNDS.get(case.split()[1], BOUNDS[dtype])
        assert error <= bound, case


@pytest.mark.slow
def test_a_large_mean_does_not_hide_a_small_deviation(
    errors: dict[str, float],
) -> None:
    far = [error for case, error in errors.items() if "far from zero" in case]
    assert len(far) == 3
    assert max(far) <= FAR_FROM_ZERO
