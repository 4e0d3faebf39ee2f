"""Weights changed in place, and put back bit for bit.

Merging a change and subtracting it later is not exact: in half precision rounding stays
behind. So a weight is copied to the CPU when it is first touched, every stack of
changes is computed from that copy, and taking the stack away is copying it back. The
live tensor stays where it is, so compiled code and graphs that hold it stay valid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..checkpoints.lora import Address, LowRank, Shapes
from ..errors import CheckpointError, EngineCorrupted


@dataclass(frozen=True, eq=False)
class Change:
    """``factor`` times a low-rank matrix, to be added to one weight."""

    layer: LowRank
    factor: float


@dataclass(frozen=True, eq=False)
class _Applied:
    """What a touched weight holds."""

    replacement: Tensor | None
    changes: tuple[Change, ...]

    def same_as(self, other: "_Applied | None") -> bool:
        """Whether both come from the very same tensors: then writing again would change
        nothing.
        """
        return (
            other is not None
            and self.replacement is other.replacement
            and len(self.changes) == len(other.changes)
            and all(
                own.layer.up is its.layer.up
                and own.layer.down is its.layer.down
                and own.factor == its.factor
                for own, its in zip(self.changes, other.changes, strict=True)
            )
        )


class WeightPatcher:
    """The one that may write to the weights of ``models``. What it holds depends on the
    last ``apply`` alone.

    Structure is not its matter: ``restore`` before motion modules are put in or taken
    out.
    """

    def __init__(self, models: Mapping[str, nn.Module]) -> None:
        self._models = dict(models)
        self._originals: dict[Address, Tensor] = {}
        self._applied: dict[Address, _Applied] = {}
        self._corrupted = False

    @property
    def host_bytes(self) -> int:
        """Memory held by the copies of the touched weights: at most the size of the
        models, however many swaps.
        """
        return sum(
            tensor.numel() * tensor.element_size()
            for tensor in self._originals.values()
        )

    def shapes(self) -> Shapes:
        """Every weight that can be changed."""
        return {address: tensor.shape for address, tensor in self._live().items()}

    def apply(
        self, replacements: Mapping[Address, Tensor], changes: Sequence[Change]
    ) -> None:
        """Make every weight its original, or its replacement, plus the changes named
        for it, in their order.

        Sums are made in float32 (float64 for such weights). A weight that the last call
        made of the very same tensors is left alone, so a LoRA on top of a DreamBooth
        model comes and goes without it. Raises CheckpointError, before anything is
        written, for a name or shape that the models do not have. Any other failure, a
        cancellation included, leaves the models as they were before the first
        ``apply``; EngineCorrupted if even that cannot be.
        """
        self._refuse_if_corrupted()
        live = self._live()
        grouped: dict[Address, list[Change]] = {address: [] for address in replacements}
        for change in changes:
            grouped.setdefault(change.layer.address, []).append(change)
        for address in grouped:
            if address not in live:
                raise CheckpointError(
                    f"the {address[0]} has no weight {address[1]}", key=address[1]
                )
            replacement = replacements.get(address)
            if replacement is not None and replacement.shape != live[address].shape:
                raise CheckpointError(
                    f"{address[1]} is {tuple(live[address].shape)}, its replacement"
                    f" {tuple(replacement.shape)}",
                    key=address[1],
                )
        try:
            for address in self._originals.keys() - grouped.keys():
                _write(live[address], self._originals[address])
                del self._originals[address]
                self._applied.pop(address, None)
            for address, own in grouped.items():
                wanted = _Applied(replacements.get(address), tuple(own))
                if wanted.same_as(self._applied.pop(address, None)):
                    self._applied[address] = wanted
                    continue
                if address not in self._originals:
                    self._originals[address] = (
                        live[address].detach().to("cpu", copy=True)
                    )
                base = (
                    self._originals[address]
                    if wanted.replacement is None
                    else wanted.replacement
                )
                _write(live[address], _sum(base, own, live[address]))
                self._applied[address] = wanted
        except BaseException:
            self.restore()
            raise

    def restore(self) -> None:
        """Every weight as it was before the first ``apply``. Raises EngineCorrupted if
        one cannot be written.
        """
        self._refuse_if_corrupted()
        try:
            live = self._live()
            for address, original in self._originals.items():
                _write(live[address], original)
        except BaseException as error:
            self._corrupted = True
            raise EngineCorrupted("changed weights could not be put back") from error
        self._originals.clear()
        self._applied.clear()

    def _live(self) -> dict[Address, Tensor]:
        return {
            (name, key): tensor
            for name, model in self._models.items()
            for key, tensor in model.state_dict().items()
        }

    def _refuse_if_corrupted(self) -> None:
        if self._corrupted:
            raise EngineCorrupted("changed weights could not be put back")


def _write(live: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        live.copy_(value)


def _sum(base: Tensor, changes: Sequence[Change], live: Tensor) -> Tensor:
    """The weight in its own precision or float32, whichever is finer, on its device."""
    precision = torch.promote_types(live.dtype, torch.float32)
    total = base.to(live.device, precision) if changes else base
    for change in changes:
        down, up = (
            part.to(live.device, precision).flatten(1)
            for part in (change.layer.down, change.layer.up)
        )
        total = total + change.factor * (up @ down).reshape(total.shape)
    return total
