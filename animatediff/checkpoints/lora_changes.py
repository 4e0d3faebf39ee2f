"""The parts of one layer in a LoRA file -> changes of its weight and its bias."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import CheckpointError
from .lora_layout import BIAS_PARTS, Method, method_of, rank_of
from .lora_names import Shapes
from .lora_settings import AdapterSettings
from .weight_changes import Address, WeightChange, difference

_BESIDE = BIAS_PARTS | {"alpha", "magnitude", "row_magnitude"}
"""Parts that stand beside those of a method."""


@dataclass(frozen=True, eq=False)
class FileLayer:
    """The ``parts`` that ``file`` has for one ``module`` of a model.

    ``settings`` is None if the file's alpha is to be ignored.
    """

    file: str
    model: str
    module: str
    parts: Mapping[str, Tensor]
    shapes: Shapes
    settings: AdapterSettings | None

    @property
    def weight(self) -> Address:
        """The address of the module's weight."""
        return self.model, f"{self.module}.weight"

    @property
    def bias(self) -> Address:
        """The address of the module's bias, which may not exist."""
        return self.model, f"{self.module}.bias"

    def changes(self) -> Iterator[WeightChange]:
        """Every change. Raises CheckpointError if one is incomplete or does not fit."""
        for change in self._changes():
            self._check(change)
            yield change

    def _changes(self) -> Iterator[WeightChange]:
        scale = self._scale()
        if self.parts.keys() - BIAS_PARTS:
            yield from self._weight_changes(scale)
        if "diff_b" in self.parts:
            yield WeightChange(self.bias, difference, {"diff": self.parts["diff_b"]})
        if "bias" in self.parts:
            tensors = {"diff": self.parts["bias"]}
            yield WeightChange(self.bias, difference, tensors, scale)

    def _weight_changes(self, scale: float) -> Iterator[WeightChange]:
        method = self._method()
        tensors = {
            part: tensor for part, tensor in self.parts.items() if part in method.parts
        }
        factors = self._factors()
        if factors is not None:
            tensors = {"factors": factors}
        magnitude = self._magnitude()
        if magnitude is not None:
            tensors["magnitude"] = magnitude
        yield WeightChange(self.weight, method.equation, tensors, scale)
        if factors is not None and self._scales_bias():
            flat = {"factors": factors.flatten()}
            yield WeightChange(self.bias, method.equation, flat)

    def _method(self) -> Method:
        parts = frozenset(self.parts.keys() - _BESIDE)
        method = method_of(self.parts)
        if method is None or not method.is_complete(parts):
            names = ", ".join(sorted(self.parts))
            needed = sorted(method.forms[0]) if method else ["down", "up"]
            raise self._error(f"has only {names}, needs {' and '.join(needed)}")
        return method

    def _scale(self) -> float:
        alpha, rank = self.parts.get("alpha"), rank_of(self.parts)
        if alpha is not None and alpha.numel() != 1:
            raise self._error(f"has an alpha of {alpha.numel()} numbers")
        if rank == 0:
            raise self._error("has the rank 0")
        if self.settings is None or rank is None:
            return 1.0
        if alpha is not None:
            return float(alpha) / rank
        return self.settings.scale(self.model, self.module, rank)

    def _magnitude(self) -> Tensor | None:
        """DoRA's lengths (c_out, 1 ...) or (1, c_in, 1 ...); PEFT's are of rows."""
        lengths = self.parts.get("row_magnitude")
        if lengths is not None:
            return self._vector(lengths, 0)
        lengths = self.parts.get("magnitude")
        if lengths is None:
            return None
        return self._vector(lengths, 0 if lengths.shape[:1] == self._shape()[:1] else 1)

    def _factors(self) -> Tensor | None:
        """(IA)^3's factors less one (c_out, 1 ...) or (1, c_in, 1 ...)."""
        factors = self.parts.get("ia3_l")
        if factors is not None:
            axis = self._peft_axis(factors)
            return self._vector(factors, axis).to(torch.float64) - 1
        factors, on_input = self.parts.get("ia3"), self.parts.get("on_input")
        if factors is None or on_input is None:
            return None
        is_input = bool(on_input.to(torch.float32).any())
        return self._vector(factors, int(is_input))

    def _peft_axis(self, factors: Tensor) -> int:
        """The axis of the weight that PEFT's factors belong to: 0 rows, 1 columns.

        Those of a convolution are (1, n, 1, 1) for both.
        """
        rows, columns = self._shape()[:2]
        if factors.ndim == 2:
            return 0 if factors.shape[1] == 1 else 1
        if rows == columns:
            raise self._error("has (IA)^3 factors that may be of its input or output")
        return 0 if factors.numel() == rows else 1

    def _vector(self, values: Tensor, axis: int) -> Tensor:
        """``values`` along one ``axis`` of the weight, with as many axes as it has."""
        shape = self._shape()
        if values.numel() != shape[axis]:
            raise self._misfit(tuple(values.shape))
        along = [1] * len(shape)
        along[axis] = shape[axis]
        return values.reshape(along)

    def _shape(self) -> torch.Size:
        shape = self.shapes[self.weight]
        if len(shape) < 2:
            raise self._error("is no matrix")
        return shape

    def _scales_bias(self) -> bool:
        """Whether the output is scaled, of which the bias is a part.

        LyCORIS leaves it out.
        """
        factors = self.parts.get("ia3_l")
        if factors is None or self.bias not in self.shapes:
            return False
        return self._peft_axis(factors) == 0

    def _check(self, change: WeightChange) -> None:
        """Compute the shape alone."""
        weight = torch.empty(self.shapes[change.address], device="meta")
        try:
            change.delta(weight, 1.0)
        except (ValueError, RuntimeError, IndexError) as error:
            shapes = " x ".join(str(tuple(t.shape)) for t in change.tensors.values())
            raise self._misfit(shapes, change.address[1]) from error

    def _misfit(self, shapes: object, key: str | None = None) -> CheckpointError:
        key = key or self.weight[1]
        shape = tuple(self.shapes[self.model, key])
        return CheckpointError(
            f"{self.file} does not fit this model: {key} is {shape}, its change"
            f" {shapes}",
            file=self.file,
        )

    def _error(self, problem: str) -> CheckpointError:
        return CheckpointError(f"{self.file}: {self.module} {problem}", file=self.file)
