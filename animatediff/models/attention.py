"""Attention and the transformer parts shared by spatial transformers and motion
modules.

Tokens are (n_batch, n, d) everywhere; heads are split as views, so no copy is made on
the way to the kernel.
"""

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigurationError

AttentionFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(b, heads, n, d), (b, heads, m, d), (b, heads, m, d) -> (b, heads, n, d)"""

MAX_BATCH = 65_535
"""CUDA's limit for the second and third grid axis: kernels put the batch there and fail
beyond it.
"""


def _sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def _xformers(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    from xformers.ops import memory_efficient_attention  # pyright: ignore[reportMissingImports]

    # xformers wants (b, n, heads, d); never the folded (b heads, n, d), which reaches
    # MAX_BATCH at 512x512
    return memory_efficient_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    ).transpose(1, 2)


def _chunked(kernel: AttentionFunction) -> AttentionFunction:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if q.shape[0] <= MAX_BATCH:
            return kernel(q, k, v)
        parts = zip(
            q.split(MAX_BATCH), k.split(MAX_BATCH), v.split(MAX_BATCH), strict=True
        )
        return torch.cat([kernel(*part) for part in parts])

    return attend


def attention_function(backend: str) -> AttentionFunction:
    """The kernel named "sdpa" or "xformers", with the batch axis kept below CUDA's grid
    limit.

    Where xformers is asked for and cannot be used, warns once and gives sdpa. Raises
    ConfigurationError for another name.
    """
    if backend not in ("sdpa", "xformers"):
        raise ConfigurationError(
            f"attention backend {backend!r}, must be sdpa or xformers",
            setting="attention_backend",
        )
    if backend == "xformers":
        try:
            import xformers.ops  # noqa: F401  # pyright: ignore[reportMissingImports]

            if not torch.cuda.is_available():
                raise RuntimeError("no CUDA device")
        except (ImportError, OSError, RuntimeError) as error:
            warnings.warn(
                f"xformers cannot be used ({error}); attention runs on torch's own"
                f" kernels",
                stacklevel=2,
            )
        else:
            return _chunked(_xformers)
    return _chunked(_sdpa)


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """(b, n, d) -> (b, heads, n, d / heads), a view."""
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(b, heads, n, d / heads) -> (b, n, d)"""
    return x.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Multi-head attention with SD 1.5's parameter names: to_q, to_k, to_v (no bias),
    to_out.0 (bias).
    """

    def __init__(self, dim: int, heads: int, context_dim: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(context_dim or dim, dim, bias=False)
        self.to_v = nn.Linear(context_dim or dim, dim, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """(b, m, d) -> keys and values, each (b, heads, m, d / heads)"""
        return split_heads(self.to_k(context), self.heads), split_heads(
            self.to_v(context), self.heads
        )

    def forward(
        self, tokens: Tensor, keys: Tensor, values: Tensor, attend: AttentionFunction
    ) -> Tensor:
        """(b, n, d) queried against keys and values of ``keys_values`` -> (b, n, d)"""
        queries = split_heads(self.to_q(tokens), self.heads)
        return self.to_out[0](merge_heads(attend(queries, keys, values)))

    def attend_to_self(self, tokens: Tensor, attend: AttentionFunction) -> Tensor:
        """(b, n, d) -> (b, n, d)"""
        return self(tokens, *self.keys_values(tokens), attend)


class GEGLU(nn.Module):
    """x W1 * gelu(x W2), both in one projection. Source: arXiv 2002.05202."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, inner * 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden, gate = self.proj(x).chunk(2, dim=-1)
        return hidden * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU of four times the width, then back. ``net.1`` is the dropout slot of
    published files: no weights.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.ModuleList(
            [GEGLU(dim, dim * 4), nn.Identity(), nn.Linear(dim * 4, dim)]
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[0](x))
