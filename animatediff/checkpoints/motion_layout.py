"""Files of motion layers: their keys in the published layout, and what keys and
positional tables tell.

diffusers' MotionAdapter names the same layers otherwise; its keys are brought to the
published ones. Source of these: ``BasicTransformerBlock`` of diffusers, whose two
self-attentions share one table.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..catalog import MOTION_MODULE_VERSIONS
from ..errors import CheckpointError
from .files import read_weights, renamed

_TABLE = ".pos_encoder.pe"
_PLACE = re.compile(
    r"(?P<block>down_blocks\.\d+|mid_block|up_blocks\.\d+)\.motion_modules\.\d+\."
)
_TRANSFORMER = "temporal_transformer."
_DIFFUSERS = {
    ".attn1.": ".attention_blocks.0.",
    ".attn2.": ".attention_blocks.1.",
    ".norm1.": ".norms.0.",
    ".norm2.": ".norms.1.",
    ".norm3.": ".ff_norm.",
    ".pos_embed.pe": f".attention_blocks.0{_TABLE}",
}


def _levels(count: int) -> set[str]:
    return {f"{side}_blocks.{i}" for side in ("down", "up") for i in range(count)}


def published_key(key: str) -> str:
    """``key`` in the published layout, without a trainer's ``module.``; unchanged if it
    is no motion layer's.
    """
    key = key.removeprefix("module.")
    place = _PLACE.match(key)
    if place is None or key.startswith(_TRANSFORMER, place.end()):
        return key
    rest = key[place.end() :]
    for theirs, ours in _DIFFUSERS.items():
        rest = rest.replace(theirs, ours)
    return f"{place[0]}{_TRANSFORMER}{rest}"


def is_motion_key(key: str) -> bool:
    """Whether ``key``, in the published layout, is a weight inside a UNet's motion
    slots.
    """
    place = _PLACE.match(key)
    return place is not None and key.startswith(_TRANSFORMER, place.end())


@dataclass(frozen=True)
class MotionLayout:
    """``blocks`` of the UNet that have motion modules, ``lengths`` of the positional
    tables in the file.
    """

    blocks: frozenset[str]
    lengths: tuple[int, ...]
    for_sdxl: bool

    @property
    def length(self) -> int | None:
        """How many frames the tables cover; None where the file has none."""
        return max(self.lengths, default=None)

    @property
    def has_mid_block(self) -> bool:
        return "mid_block" in self.blocks

    @property
    def is_whole(self) -> bool:
        """Motion modules at every level of SD 1.5, down and up. The mid-block's is a
        matter of the version.
        """
        return self.blocks >= _levels(4)

    @property
    def version(self) -> str | None:
        """A mid-block module means v2, or AnimateLCM with its longer table. Of v1 and
        v3 only the table tells.
        """
        if not self.has_mid_block and not self.length:
            return None
        alike = {
            name: row
            for name, row in MOTION_MODULE_VERSIONS.items()
            if row.use_mid_block == self.has_mid_block
        }
        fitting = (name for name, row in alike.items() if row.max_length == self.length)
        return next(fitting, "v2" if self.has_mid_block else "v3")


def motion_layout(weights: Mapping[str, Tensor]) -> MotionLayout:
    """What ``weights``, in the published layout, are. Weights other than motion layers'
    do not matter.
    """
    blocks = frozenset(
        place["block"] for key in weights if (place := _PLACE.match(key))
    )
    tables = (
        tensor
        for key, tensor in weights.items()
        if key.endswith(_TABLE) and tensor.ndim > 1
    )
    lengths = tuple(sorted({table.shape[-2] for table in tables}))
    first, last = (
        weights.get(f"{block}.motion_modules.0.{_TRANSFORMER}norm.weight")
        for block in ("down_blocks.0", "up_blocks.2")
    )  # SDXL's UNet has three levels, so that the third up block is the outermost
    mirrored = first is not None and last is not None and first.shape == last.shape
    return MotionLayout(blocks, lengths, for_sdxl=blocks == _levels(3) and mirrored)


def read_motion_layers(path: str | Path) -> tuple[dict[str, Tensor], MotionLayout]:
    """The weights of a file of motion layers, and what is told by its keys and its
    positional tables.

    Keys are in the published layout. The tables are taken off: they are computed, not
    learned. Raises what ``read_weights`` does, and CheckpointError for tables that
    disagree.
    """
    name = Path(path).name
    raw = renamed(name, read_weights(path), published_key)
    tables = {
        tuple(tensor.shape[:-1]) for key, tensor in raw.items() if key.endswith(_TABLE)
    }
    if len(tables) > 1 or any(len(shape) != 2 or shape[0] != 1 for shape in tables):
        raise CheckpointError(
            f"{name} has positional tables of several or odd shapes: {sorted(tables)}",
            file=name,
        )
    tensors = {key: tensor for key, tensor in raw.items() if not key.endswith(_TABLE)}
    return tensors, motion_layout(raw)
