"""The equations of adapters: how the tensors of one layer change a weight W.

Sources: LoRA arXiv 2106.09685; LoHa arXiv 2108.06098; LoKr and the convolutions of all
three arXiv 2309.14859; (IA)^3 arXiv 2205.05638; DoRA arXiv 2402.09353.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Address = tuple[str, str]
"""A model's name ("unet", "vae", "text_encoder") and a key of its state dict."""

Tensors = Mapping[str, Tensor]
"""The tensors of one change by the names that the equations give them."""


def low_rank(tensors: Tensors, _weight: Tensor) -> Tensor:
    """LoRA: ``up`` (c_out, r) after ``down`` (r, c_in ...), with ``mid`` between.

    The middle factor (r, r, ...) is that of a convolution in LoCon.
    """
    down, up, mid = tensors["down"], tensors["up"].flatten(1), tensors.get("mid")
    if mid is None:
        return up @ down.flatten(1)
    return _tucker(mid, up.T, down.flatten(1))


def hadamard(tensors: Tensors, _weight: Tensor) -> Tensor:
    """LoHa: the products of two pairs of matrices, multiplied number by number."""
    first, second = (
        _product(tensors, f"hada_w{i}", f"hada_t{i}").flatten(1) for i in (1, 2)
    )
    return first * second


def kronecker(tensors: Tensors, _weight: Tensor) -> Tensor:
    """LoKr: the Kronecker product of a small and a larger matrix."""
    first, second = (_product(tensors, f"lokr_w{i}", f"lokr_t{i}") for i in (1, 2))
    return torch.kron(first, second.flatten(1))


def difference(tensors: Tensors, _weight: Tensor) -> Tensor:
    """A difference that the file states number by number."""
    return tensors["diff"]


def scaling(tensors: Tensors, weight: Tensor) -> Tensor:
    """(IA)^3: each row or column times its own factor, less the weight itself."""
    return tensors["factors"] * weight


def decomposed(weight: Tensor, magnitude: Tensor) -> Tensor:
    """DoRA: ``magnitude`` for the length of each row or column of ``weight``.

    ``magnitude`` is (c_out, 1 ...) or (1, c_in, 1 ...). Vectors of zeros stay so.
    """
    axes = [axis for axis, size in enumerate(magnitude.shape) if size == 1]
    lengths = weight.square().sum(axes, keepdim=True).sqrt()
    return magnitude * (weight / lengths.clamp(min=torch.finfo(weight.dtype).tiny))


def _product(tensors: Tensors, name: str, core_name: str) -> Tensor:
    """A matrix that is stored whole, as two factors, or as two with a core."""
    whole, core = tensors.get(name), tensors.get(core_name)
    if whole is not None:
        return whole
    left, right = tensors[f"{name}_a"], tensors[f"{name}_b"]
    if core is None:
        return left @ right.flatten(1)
    return _tucker(core, left, right)


def _tucker(core: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """A core (r, r, ...) between (r, c_out) and (r, c_in): (c_out, c_in, ...)."""
    return torch.einsum("rs...,ro,si->oi...", core, left, right)


@dataclass(frozen=True, eq=False)
class WeightChange:
    """The change of one weight, at full strength ``scale`` times the ``equation``.

    With a "magnitude" among the ``tensors``, W + change is then decomposed.
    """

    address: Address
    equation: Callable[[Tensors, Tensor], Tensor]
    tensors: Tensors
    scale: float = 1.0

    def delta(self, weight: Tensor, strength: float) -> Tensor:
        """``strength`` times the change of ``weight``, in its precision and place.

        It is proportional to ``strength``. Raises ValueError or RuntimeError if the
        tensors do not make a change of this shape.
        """
        tensors = {
            name: tensor.to(weight.device, weight.dtype)
            for name, tensor in self.tensors.items()
        }
        matrix = _shaped(self.equation(tensors, weight), weight)
        magnitude = tensors.get("magnitude")
        if magnitude is None:
            return strength * self.scale * matrix
        return strength * (decomposed(weight + self.scale * matrix, magnitude) - weight)


def _shaped(matrix: Tensor, weight: Tensor) -> Tensor:
    rows = weight.shape[:1]
    if matrix.shape[:1] != rows or matrix.numel() != weight.numel():
        raise ValueError(f"{tuple(matrix.shape)} is not {tuple(weight.shape)}")
    return matrix.reshape(weight.shape)
