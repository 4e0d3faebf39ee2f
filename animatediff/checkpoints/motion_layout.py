"""Files of motion layers: their keys in the published layout, and their architecture.

Keys and positional tables show the architecture.

diffusers' MotionAdapter names the same layers differently; its keys are translated.
Source of its names: ``BasicTransformerBlock`` of diffusers, whose two self-attentions
share one table.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..errors import CheckpointError
from ..families import MODELS, Family, ModelMarks
from ..fetch.weight_file import WeightFile
from .files import read_weights, renamed

_TABLE = ".pos_encoder.pe"
_PLACE = re.compile(
    r"(?P<block>down_blocks\.\d+|mid_block|up_blocks\.\d+)\.motion_modules\.\d+\."
)
_TRANSFORMER = "temporal_transformer."
_FROM_DIFFUSERS = {
    ".attn1.": ".attention_blocks.0.",
    ".attn2.": ".attention_blocks.1.",
    ".norm1.": ".norms.0.",
    ".norm2.": ".norms.1.",
    ".norm3.": ".ff_norm.",
    ".pos_embed.pe": f".attention_blocks.0{_TABLE}",
}
_MOST_LEVELS = max(model.motion_levels or 0 for model in MODELS)


def published_key(key: str) -> str:
    """``key`` in the published layout, without a trainer's ``module.`` before it.

    Keys of other layers are not changed.
    """
    key = key.removeprefix("module.")
    place = _PLACE.match(key)
    if place is None or key.startswith(_TRANSFORMER, place.end()):
        return key
    rest = key[place.end() :]
    for diffusers_name, published_name in _FROM_DIFFUSERS.items():
        rest = rest.replace(diffusers_name, published_name)
    return f"{place[0]}{_TRANSFORMER}{rest}"


def diffusers_key(key: str) -> str:
    """The key of a motion module, in the published layout, as MotionAdapter names it.

    Keys of other layers are not changed.
    """
    if not is_motion_key(key):
        return key
    key = key.replace(f".{_TRANSFORMER}", ".", 1)
    for diffusers_name, published_name in _FROM_DIFFUSERS.items():
        key = key.replace(published_name, diffusers_name)
    return key


def is_motion_key(key: str) -> bool:
    """Whether ``key``, in the published layout, is a weight of a motion slot."""
    place = _PLACE.match(key)
    return place is not None and key.startswith(_TRANSFORMER, place.end())


@dataclass(frozen=True)
class MotionLayout:
    """The UNet's ``blocks`` with motion modules, and ``lengths`` of the tables.

    ``model`` is the model of which the file covers every level; None if it covers no
    known model's.
    """

    blocks: frozenset[str]
    lengths: tuple[int, ...]
    model: ModelMarks | None

    @property
    def length(self) -> int | None:
        """The number of frames that the tables cover; None for a file without."""
        return max(self.lengths, default=None)

    @property
    def has_mid_block(self) -> bool:
        """Whether there is a motion module in the middle of the UNet."""
        return "mid_block" in self.blocks

    def version(self, family: Family) -> str | None:
        """The version of ``family`` that the file has, None if it may be several.

        Versions differ in the mid-block module and in the table's length. A table of an
        unknown length decides for the family's fallback.
        """
        alike = self._alike(family)
        if len(self.lengths) == 0:
            return self._without_table(family)
        for version in alike:
            if family.motion_versions[version].max_length == self.length:
                return version
        return next(name for name in family.motion_fallbacks if name in alike)

    def possible_versions(self, family: Family) -> str:
        """The version, or the versions to choose from, in words."""
        return self.version(family) or " or ".join(self._alike(family))

    def _without_table(self, family: Family) -> str | None:
        if not self.has_mid_block:
            return None
        alike = self._alike(family)
        return next(name for name in family.motion_fallbacks if name in alike)

    def _alike(self, family: Family) -> tuple[str, ...]:
        return tuple(
            name
            for name, config in family.motion_versions.items()
            if config.use_mid_block == self.has_mid_block
        )


def motion_layout(weights: Mapping[str, Tensor]) -> MotionLayout:
    """The motion modules among ``weights``, whose keys are in the published layout."""
    places = (_PLACE.match(key) for key in weights)
    blocks = frozenset(place["block"] for place in places if place)
    tables = [tensor for key, tensor in weights.items() if key.endswith(_TABLE)]
    lengths = {table.shape[-2] for table in tables if table.ndim > 1}
    model = next(
        (model for model in MODELS if _covers(model, weights, blocks)),
        None,
    )
    return MotionLayout(blocks, tuple(sorted(lengths)), model)


def _covers(
    model: ModelMarks, weights: Mapping[str, Tensor], blocks: frozenset[str]
) -> bool:
    levels = model.motion_levels
    if levels is None:
        return False
    sides = frozenset(
        f"{side}_blocks.{i}" for side in ("down", "up") for i in range(levels)
    )
    if levels == _MOST_LEVELS:
        return blocks >= sides
    # A file cut out of a deeper model's has these blocks too. It does not end at the
    # level where it begins.
    return blocks == sides and _ends_as_it_begins(weights, levels)


def _ends_as_it_begins(weights: Mapping[str, Tensor], levels: int) -> bool:
    norm = f"motion_modules.0.{_TRANSFORMER}norm.weight"
    first = weights.get(f"down_blocks.0.{norm}")
    last = weights.get(f"up_blocks.{levels - 1}.{norm}")
    return first is not None and last is not None and first.shape == last.shape


def read_motion_layers(file: WeightFile) -> tuple[dict[str, Tensor], MotionLayout]:
    """The weights of a file of motion layers, and their layout; see ``motion_layers``.

    Raises the errors of ``read_weights`` too.
    """
    return motion_layers(file.name, read_weights(file))


def motion_layers(
    name: str, weights: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], MotionLayout]:
    """The motion layers among the ``weights`` of the file ``name``, and their layout.

    Keys are in the published layout. Positional tables are left out, because they are
    computed, not learned. Raises CheckpointError for tables that contradict each other.
    """
    raw = renamed(name, weights, published_key)
    _check_tables(name, raw)
    tensors = {key: tensor for key, tensor in raw.items() if not key.endswith(_TABLE)}
    return tensors, motion_layout(raw)


def _check_tables(name: str, weights: Mapping[str, Tensor]) -> None:
    tables = [tensor for key, tensor in weights.items() if key.endswith(_TABLE)]
    shapes = {tuple(table.shape[:-1]) for table in tables}
    is_regular = all(len(shape) == 2 and shape[0] == 1 for shape in shapes)
    if len(shapes) > 1 or not is_regular:
        raise CheckpointError(
            f"{name} has positional tables of several or odd shapes: {sorted(shapes)}",
            file=name,
        )
