"""Weights changed in place, and put back bit for bit.

Merging a change and subtracting it later is not exact: in half precision, rounding
errors remain. So a weight is copied before its first change: on its device if there is
room, else to the CPU. Every stack of changes is computed from that copy, and removing
the stack copies it back. The live tensor stays in its place, so compiled code and
graphs that hold it stay valid.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..checkpoints.lora_names import Shapes
from ..checkpoints.weight_changes import Address, WeightChange
from ..errors import CheckpointError, EngineCorrupted

HOST = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Change:
    """The change of one weight, made ``strength`` times."""

    of_weight: WeightChange
    strength: float

    def same_as(self, other: "Change") -> bool:
        """Whether both come from the very same tensors and the same strength."""
        same_source = self.of_weight is other.of_weight
        return same_source and self.strength == other.strength


@dataclass(frozen=True, eq=False)
class _Content:
    """The parts of a changed weight: a replacement or its original, and changes."""

    replacement: Tensor | None
    changes: tuple[Change, ...]

    def same_as(self, other: "_Content | None") -> bool:
        """Whether writing this over the other would change nothing."""
        if other is None or self.replacement is not other.replacement:
            return False
        if len(self.changes) != len(other.changes):
            return False
        pairs = zip(self.changes, other.changes, strict=True)
        return all(mine.same_as(theirs) for mine, theirs in pairs)


class WeightPatcher:
    """The only writer of the weights of ``models``.

    The weights depend on the last ``apply`` alone. It does not handle changes of
    structure: call ``restore`` before adding or removing motion modules.
    """

    def __init__(self, models: Mapping[str, nn.Module]) -> None:
        self._models = dict(models)
        self._originals: dict[Address, Tensor] = {}
        self._contents: dict[Address, _Content] = {}
        self._corrupted = False

    @property
    def host_bytes(self) -> int:
        """Memory on the host of the copies of changed weights.

        All copies take at most the size of the models.
        """
        copies = self._originals.values()
        return sum(copy.nbytes for copy in copies if copy.device == HOST)

    @property
    def device_bytes(self) -> int:
        """Memory on the models' device of the copies of changed weights."""
        copies = self._originals.values()
        return sum(copy.nbytes for copy in copies if copy.device != HOST)

    def move_copies_to_host(self) -> bool:
        """Free the device of the copies; return whether there were any."""
        had_any = self.device_bytes > 0
        for address, copy in self._originals.items():
            self._originals[address] = copy.to(HOST)
        return had_any

    def shapes(self) -> Shapes:
        """Return the shape of every weight that can be changed."""
        return {address: tensor.shape for address, tensor in self._live().items()}

    def apply(
        self,
        replacements: Mapping[Address, Tensor],
        changes: Sequence[Change],
        spare: int = 0,
    ) -> None:
        """Make every weight its original, or its replacement, plus its changes.

        Changes are added in their order. New copies of weights stay on the models'
        device up to ``spare`` bytes.
        Sums are computed in float32 (float64 for float64 weights). A weight that the
        last call made of the very same tensors is not written again, so that a LoRA on
        top of a DreamBooth model is exchanged without rewriting the latter.

        Raises CheckpointError, before any write, for a name or shape that the models do
        not have. Any other failure, such as a cancellation, leaves the models as they
        were before the first ``apply``; EngineCorrupted if even that fails.
        """
        self._refuse_if_corrupted()
        live = self._live()
        contents = _contents(replacements, changes)
        for address, content in contents.items():
            _check(address, content, live)
        try:
            self._restore_all(live, self._originals.keys() - contents.keys())
            for address, content in contents.items():
                spare -= self._change(address, content, live[address], spare)
        except BaseException:
            self.restore()
            raise

    def _restore_all(
        self, live: Mapping[Address, Tensor], addresses: Iterable[Address]
    ) -> None:
        for address in addresses:
            _write(live[address], self._originals[address])
            del self._originals[address]
            self._contents.pop(address, None)

    def _change(
        self, address: Address, content: _Content, live: Tensor, spare: int
    ) -> int:
        """Write a weight; return the bytes that its copy takes of ``spare``."""
        before, taken = self._contents.pop(address, None), 0
        if not content.same_as(before):
            if address not in self._originals:
                taken = self._keep(address, live, spare)
            base = content.replacement
            if base is None:
                base = self._originals[address]
            _write(live, _sum(base, content.changes, live))
        self._contents[address] = content
        return taken

    def _keep(self, address: Address, live: Tensor, spare: int) -> int:
        fits = live.nbytes <= spare
        place = live.device if fits else HOST
        self._originals[address] = live.detach().to(place, copy=True)
        return live.nbytes if fits else 0

    def restore(self) -> None:
        """Put every weight back as it was before the first ``apply``.

        Raises EngineCorrupted if one cannot be written.
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
        self._contents.clear()

    def _live(self) -> dict[Address, Tensor]:
        return {
            (name, key): tensor
            for name, model in self._models.items()
            for key, tensor in model.state_dict().items()
        }

    def _refuse_if_corrupted(self) -> None:
        if self._corrupted:
            raise EngineCorrupted("changed weights could not be put back")


def _contents(
    replacements: Mapping[Address, Tensor], changes: Sequence[Change]
) -> dict[Address, _Content]:
    """Group replacements and changes by weight; replaced weights come first."""
    grouped: dict[Address, list[Change]] = {address: [] for address in replacements}
    for change in changes:
        grouped.setdefault(change.of_weight.address, []).append(change)
    return {
        address: _Content(replacements.get(address), tuple(changes_of_one))
        for address, changes_of_one in grouped.items()
    }


def _check(address: Address, content: _Content, live: Mapping[Address, Tensor]) -> None:
    model, key = address
    if address not in live:
        raise CheckpointError(f"the {model} has no weight {key}", key=key)
    replacement = content.replacement
    if replacement is not None and replacement.shape != live[address].shape:
        raise CheckpointError(
            f"{key} is {tuple(live[address].shape)}, its replacement"
            f" {tuple(replacement.shape)}",
            key=key,
        )


def _write(live: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        live.copy_(value)


def _sum(base: Tensor, changes: Sequence[Change], live: Tensor) -> Tensor:
    """Compute a weight in its own precision or float32, whichever is finer."""
    if not changes:
        return base
    precision = torch.promote_types(live.dtype, torch.float32)
    total = base.to(live.device).to(precision)  # fewer bytes cross
    weight = total
    for change in changes:
        total = total + change.of_weight.delta(weight, change.strength)
    return total
