"""LoRA files and their kin -> changes of named weights.

MotionLoRA files and v3's domain adapter are LoRA files too. ``lora_layout`` has the
grammar of their keys, ``lora_names`` the names of layers, ``weight_changes`` the
equations.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

from torch import Tensor

from ..errors import CheckpointError
from ..families import Family
from ..fetch.weight_file import AnyFile, WeightFile
from .detect import described, lora_in
from .files import check_finite, read_weights
from .lora_changes import FileLayer
from .lora_layout import BIAS_PARTS, LoraLayout, layer_name
from .lora_names import Shapes, layer_names
from .lora_settings import adapter_settings
from .weight_changes import WeightChange

_Module = tuple[str, str]
"""A model's name and a module's."""


@dataclass(frozen=True, eq=False)
class Lora:
    """``unmatched`` lists the file's keys that belong to no weight of the model."""

    name: str
    changes: tuple[WeightChange, ...]
    unmatched: tuple[str, ...]


def read_lora(
    file: AnyFile,
    family: Family,
    shapes: Shapes,
    *,
    ignore_file_alpha: bool = False,
) -> Lora:
    """Read a LoRA file for the model of ``family`` that has ``shapes``.

    The model does not change. The changes have the factor alpha / rank (arXiv
    2106.09685, section 4.1), unless the file states no alpha or it is to be ignored.

    Raises AssetError if there is no file; CheckpointError if it is of another kind or
    for another family, if a layer is incomplete or of another shape, if none of its
    layers is in this model, or if it is a MotionLoRA for another motion module.
    """
    file = WeightFile.of(file)
    name, weights = file.name, read_weights(file)
    layout = _layout(name, weights, family)
    names = layer_names(family, shapes)
    _check_motion_module(name, layout, names)
    modules = _modules(name, layout, names, shapes)
    if not modules:
        raise CheckpointError(
            f"{name} fits no layer of this model: none of its {len(weights)} keys is"
            f" used",
            file=name,
        )
    settings = None if ignore_file_alpha else adapter_settings(file)
    layers = [
        FileLayer(name, *place, _parts(keys, weights), shapes, settings)
        for place, keys in modules.items()
    ]
    changes = chain.from_iterable(layer.changes() for layer in layers)
    used = dict.fromkeys(key for keys in modules.values() for key in keys.values())
    check_finite(name, {key: weights[key] for key in used})
    unmatched = tuple(key for key in weights if key not in used)
    return Lora(name, tuple(changes), unmatched)


def _layout(name: str, weights: Mapping[str, Tensor], family: Family) -> LoraLayout:
    """Return the layout of a LoRA's keys. Raises CheckpointError for other files."""
    layout = lora_in(weights)
    if layout is None:
        raise CheckpointError(
            f"{name} is not a LoRA file: it is {described(weights)}", file=name
        )
    _check_layout(name, layout, family)
    return layout


def _parts(keys: Mapping[str, str], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of one layer by what they are in it."""
    return {part: weights[key] for part, key in keys.items()}


def _check_layout(name: str, layout: LoraLayout, family: Family) -> None:
    if layout.other:
        raise CheckpointError(
            f"{name} is {layout.kind}, which is not supported", file=name
        )
    if layout.model not in (None, family):
        raise CheckpointError(
            f"{name} is a {layout.kind} for {layout.model.name}; one for {family.name}"
            f" is expected",
            file=name,
        )
    for key in layout.strays:
        if _is_of_layer(key, layout):
            raise CheckpointError(
                f"{name}: {key} is no known part of the change of its layer", file=name
            )


def _is_of_layer(key: str, layout: LoraLayout) -> bool:
    steps = key.split(".")
    return any(
        layer_name(".".join(steps[:count])) in layout.layers
        for count in range(1, len(steps))
    )


def _modules(
    name: str, layout: LoraLayout, names: Mapping[str, _Module], shapes: Shapes
) -> Mapping[_Module, Mapping[str, str]]:
    """The keys of each module of the model by part, whatever its name in the file."""
    modules: defaultdict[_Module, dict[str, str]] = defaultdict(dict)
    for key, (layer, part) in layout.keys.items():
        module = names.get(layer)
        if module is None or not _has_place(module, part, shapes):
            continue
        if part in modules[module]:
            raise CheckpointError(
                f"{name} changes {module[1]} twice, by {modules[module][part]} and"
                f" {key}",
                file=name,
            )
        modules[module][part] = key
    return modules


def _has_place(module: _Module, part: str, shapes: Shapes) -> bool:
    model, name = module
    return (model, f"{name}.{'bias' if part in BIAS_PARTS else 'weight'}") in shapes


def _check_motion_module(
    name: str, layout: LoraLayout, names: Mapping[str, _Module]
) -> None:
    if layout.has_motion_in("mid_block") and not any(
        "mid_block_motion_modules_" in layer for layer in names
    ):
        raise CheckpointError(
            f"{name} is a MotionLoRA for a v2 motion module, and the one in use has"
            f" no mid-block module",
            file=name,
        )
