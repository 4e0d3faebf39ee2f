"""Attention and the transformer parts of spatial transformers and motion modules.

Tokens are (n_batch, n, d). Heads are split as views, so the kernels need no copy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigurationError

AttentionFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(b, heads, n, d), (b, heads, m, d), (b, heads, m, d) -> (b, heads, n, d)"""

MAX_BATCH = 65_535
"""CUDA's limit for the second and third grid axis, where kernels put the batch."""


def _sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def _xformers(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    from xformers.ops import memory_efficient_attention  # pyright: ignore[reportMissingImports, reportUnknownVariableType]

    # (b, n, heads, d): the folded (b heads, n, d) would reach MAX_BATCH at 512x512.
    queries, keys, values = (x.transpose(1, 2) for x in (q, k, v))
    attended = cast(Tensor, memory_efficient_attention(queries, keys, values))
    return attended.transpose(1, 2)


def _chunked(kernel: AttentionFunction) -> AttentionFunction:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if q.shape[0] <= MAX_BATCH:
            return kernel(q, k, v)
        split = (torch.split(x, MAX_BATCH) for x in (q, k, v))
        return torch.cat([kernel(*part) for part in zip(*split, strict=True)])

    return attend


@dataclass(frozen=True)
class AttentionBackend:
    """The attention kernels in use.

    ``name`` is "sdpa" or "xformers". ``warning`` says why xformers was asked for and is
    not used; it is empty otherwise.
    """

    name: str
    attend: AttentionFunction
    warning: str = ""


def attention_backend(backend: str) -> AttentionBackend:
    """Return the kernels named "sdpa" or "xformers", with bounded batches.

    PyTorch's own kernels take the place of xformers where xformers cannot run. Raises
    ConfigurationError for another name.
    """
    if backend not in ("sdpa", "xformers"):
        raise ConfigurationError(
            f"attention backend {backend!r}, must be sdpa or xformers",
            setting="attention_backend",
        )
    if backend == "sdpa":
        return AttentionBackend("sdpa", _chunked(_sdpa))
    if obstacle := _xformers_obstacle():
        warning = (
            f"xformers cannot be used ({obstacle}): PyTorch's attention runs instead"
        )
        return AttentionBackend("sdpa", _chunked(_sdpa), warning)
    return AttentionBackend("xformers", _chunked(_xformers))


def _xformers_obstacle() -> str:
    """Return why xformers cannot run here; "" if it can."""
    try:
        import xformers.ops  # noqa: F401  # pyright: ignore[reportMissingImports, reportUnusedImport]
    except (ImportError, OSError, RuntimeError) as error:
        return str(error)
    return "" if torch.cuda.is_available() else "no CUDA device"


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """Split (b, n, d) into (b, heads, n, d / heads), a view."""
    return torch.unflatten(tokens, -1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Join (b, heads, n, d / heads) to (b, n, d)."""
    return x.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Multi-head attention with SD's parameter names.

    These are to_q, to_k, to_v (no bias) and to_out.0 (with bias).
    """

    def __init__(self, dim: int, heads: int, context_dim: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(context_dim or dim, dim, bias=False)
        self.to_v = nn.Linear(context_dim or dim, dim, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Project (b, m, d) to keys and values, each (b, heads, m, d / heads)."""
        keys, values = self.to_k(context), self.to_v(context)
        return split_heads(keys, self.heads), split_heads(values, self.heads)

    def forward(
        self, tokens: Tensor, keys: Tensor, values: Tensor, attend: AttentionFunction
    ) -> Tensor:
        """Attend from tokens (b, n, d) to the result of ``keys_values``: (b, n, d)."""
        queries = split_heads(self.to_q(tokens), self.heads)
        return self.to_out[0](merge_heads(attend(queries, keys, values)))

    def attend_to_self(self, tokens: Tensor, attend: AttentionFunction) -> Tensor:
        """Attend from tokens (b, n, d) to the same tokens."""
        return self(tokens, *self.keys_values(tokens), attend)


class GEGLU(nn.Module):
    """x W1 * gelu(x W2), both in one projection (arXiv 2002.05202)."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, inner * 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., dim) to (..., inner)."""
        hidden, gate = self.proj(x).chunk(2, dim=-1)
        return hidden * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU of four times the width, and back.

    ``net.1`` is the dropout slot of published files; it has no weights.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        layers = [GEGLU(dim, dim * 4), nn.Identity(), nn.Linear(dim * 4, dim)]
        self.net = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., dim) to (..., dim)."""
        return self.net[2](self.net[0](x))
