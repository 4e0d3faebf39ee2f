"""Attention and the transformer parts of spatial transformers and motion modules.

Tokens are (n_batch, n, d). Heads are split as views, so the kernels need no copy.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigurationError
from ..kernels.attention import AttentionFunction
from ..kernels.choice import fused
from ..kernels.elementwise import geglu

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
        import xformers.ops  # pyright: ignore[reportMissingImports, reportUnusedImport]  # noqa: F401 - a try
    except (ImportError, OSError, RuntimeError) as error:
        return str(error)
    return "" if torch.cuda.is_available() else "no CUDA device"


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """Split (b, n, d) into (b, heads, n, d / heads), a view."""
    return torch.unflatten(tokens, -1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Join (b, heads, n, d / heads) to (b, n, d)."""
    return x.transpose(1, 2).flatten(2)


def to_tokens(image: Tensor) -> Tensor:
    """View (n, c, h, w), channels_last, as (n, h w, c)."""
    return image.permute(0, 2, 3, 1).flatten(1, 2)


def to_image(tokens: Tensor, size: Sequence[int]) -> Tensor:
    """View (n, h w, c) as (n, c, h, w), channels_last. ``size`` is (h, w)."""
    return torch.unflatten(tokens, 1, tuple(size)).permute(0, 3, 1, 2)


@dataclass(frozen=True, eq=False)
class _Packed:
    """One tensor, (3 d, d), whose parts are the weights of three layers."""

    whole: Tensor
    weights: tuple[Tensor, ...]

    def stands_for(self, layers: Iterable[nn.Module]) -> bool:
        """Whether the layers are plain ones with these weights."""
        return all(
            type(layer) is nn.Linear and layer.weight is weight
            for layer, weight in zip(layers, self.weights, strict=True)
        )

    def is_live(self) -> bool:
        """Whether the weights are still parts of the tensor."""
        return {_storage(weight) for weight in self.weights} == {_storage(self.whole)}


def _storage(tensor: Tensor) -> int:
    # Tensors of simulated devices have no pointer to data.
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]


def _packed(layers: Sequence[nn.Module]) -> _Packed | None:
    """Pack the weights of three layers; None where one product would not be used."""
    linear = [layer for layer in layers if type(layer) is nn.Linear]
    weights = [layer.weight.detach() for layer in linear]
    shapes = {weight.shape for weight in weights}
    if len(linear) != len(layers) or len(shapes) != 1 or not fused(*weights):
        return None
    whole = torch.cat(weights)
    for layer, part in zip(linear, whole.chunk(len(layers)), strict=True):
        layer.weight = nn.Parameter(part, layer.weight.requires_grad)
    return _Packed(whole, tuple(layer.weight for layer in linear))


def _pack_again(attention: "Attention", _keys: object) -> None:
    attention.pack()


def pack_projections(model: nn.Module) -> None:
    """Pack the weights of every self-attention whose tensors were put in directly."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.pack()


class Attention(nn.Module):
    """Multi-head attention with SD's parameter names.

    These are to_q, to_k, to_v (no bias) and to_out.0 (with bias). On a GPU, the weights
    of self-attention's to_q, to_k and to_v are parts of one tensor, so that one product
    computes all three. They stay so when weights are loaded, moved or cast.
    """

    _packed: "_Packed | None" = None

    def __init__(self, dim: int, heads: int, context_dim: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(context_dim or dim, dim, bias=False)
        self.to_v = nn.Linear(context_dim or dim, dim, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        self.register_load_state_dict_post_hook(_pack_again)  # pyright: ignore[reportUnknownMemberType]

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
        split = [split_heads(x, self.heads) for x in self.projections(tokens)]
        return self.to_out[0](merge_heads(attend(*split)))

    def projections(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project tokens (b, n, d) to their queries, keys and values, (b, n, d)."""
        layers, packed = (self.to_q, self.to_k, self.to_v), self._packed
        if packed and packed.stands_for(layers) and fused(tokens, *packed.weights):
            queries, keys, values = F.linear(tokens, packed.whole).chunk(3, dim=-1)
            return queries, keys, values
        return self.to_q(tokens), self.to_k(tokens), self.to_v(tokens)

    def pack(self) -> None:
        """Make the three weights parts of one tensor, where that is of use."""
        layers = (self.to_q, self.to_k, self.to_v)
        if self._packed and self._packed.stands_for(layers) and self._packed.is_live():
            return
        self._packed = _packed(layers)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Do as nn.Module when weights are moved or cast, and pack them again."""
        module = super()._apply(fn, recurse)  # pyright: ignore[reportUnknownMemberType]
        self.pack()
        return module

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the packed tensor: a copy's weights are no parts of it."""
        state = super().__getstate__()
        return {key: value for key, value in state.items() if key != "_packed"}


class GEGLU(nn.Module):
    """x W1 * gelu(x W2), both in one projection (arXiv 2002.05202)."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, inner * 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., dim) to (..., inner)."""
        return geglu(self.proj(x))


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
