"""Which implementation runs: by the setting, the tensors and the device."""

import sys

import pytest
import torch

from animatediff.errors import ConfigurationError
from animatediff.kernels.choice import forced_kernels, fused, obstacle, use_kernels


def test_pytorch_runs_on_the_cpu() -> None:
    assert not fused(torch.zeros(2))
    assert obstacle() in ("no CUDA device", "Triton is not installed")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_kernels_take_what_they_can_compute(dtype: torch.dtype) -> None:
    with forced_kernels():
        assert fused(torch.zeros(2, dtype=dtype), None)
        assert not fused(torch.zeros(2, dtype=torch.float64))


def test_gradients_are_pytorchs() -> None:
    weight = torch.zeros(2, requires_grad=True)
    with forced_kernels():
        assert not fused(torch.zeros(2), weight)
        with torch.no_grad():
            assert fused(torch.zeros(2), weight)


def test_another_word_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'triton', must be auto or torch"):
        use_kernels("triton")


def test_nothing_imports_triton_where_it_does_not_run() -> None:
    """Its import would delay the start of a worker without a GPU."""
    import subprocess

    code = (
        "import sys, animatediff.pipeline;"
        "sys.exit('triton' in sys.modules or 'triton.language' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
