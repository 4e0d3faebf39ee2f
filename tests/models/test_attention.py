"""Attention backends agree with PyTorch, and batches stay below CUDA's limit."""

import sys
import types

import pytest
import torch
import torch.nn.functional as F

from animatediff.errors import ConfigurationError
from animatediff.models import attention
from animatediff.models.attention import attention_backend


def qkv(batch: int = 10) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(batch, 2, 3, 4, generator=generator)
    k = torch.randn(batch, 2, 5, 4, generator=generator)
    v = torch.randn(batch, 2, 5, 4, generator=generator)
    return q, k, v


def test_batch_is_cut_below_the_grid_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        seen.append(q.shape[0])
        return F.scaled_dot_product_attention(q, k, v)

    monkeypatch.setattr(attention, "MAX_BATCH", 4)
    monkeypatch.setattr(attention, "_sdpa", spy)
    assert torch.allclose(
        attention_backend("sdpa").attend(*qkv()),
        F.scaled_dot_product_attention(*qkv()),
        atol=1e-6,
    )
    assert seen == [4, 4, 2]


def test_limit_is_that_of_cudas_grid() -> None:
    assert attention.MAX_BATCH < 65_536


def test_a_missing_xformers_is_reported_as_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "xformers", None)
    backend = attention_backend("xformers")
    assert backend.name == "sdpa"
    assert backend.warning.startswith("xformers cannot be used (")
    expected = F.scaled_dot_product_attention(*qkv())
    assert torch.equal(backend.attend(*qkv()), expected)
    assert attention_backend("sdpa").warning == ""


def test_xformers_gets_its_layout_and_the_same_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shapes = []

    def kernel(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(q.shape))
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)

    package, ops = types.ModuleType("xformers"), types.ModuleType("xformers.ops")
    vars(ops)["memory_efficient_attention"] = kernel
    vars(package)["ops"] = ops
    monkeypatch.setitem(sys.modules, "xformers", package)
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(attention, "MAX_BATCH", 8)
    output = attention_backend("xformers").attend(*qkv())
    assert torch.allclose(output, F.scaled_dot_product_attention(*qkv()), atol=1e-6)
    assert shapes == [(8, 3, 2, 4), (2, 3, 2, 4)]  # (b, n, heads, d)


def test_other_backends_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="sdpa or xformers"):
        attention_backend("flash")
