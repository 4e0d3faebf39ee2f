"""Models in one file, in the LDM layout: UNet, VAE and text encoder under prefixes.

After the renaming every key is compared with the model's; keys that are left over are
reported.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..families import Family, ModelPart
from ..families.recognition import marked_model
from ..fetch.weight_file import AnyFile, WeightFile
from .detect import context_width, described, other_purpose
from .files import check_finite, check_keys_and_shapes, read_content, renamed
from .ldm import Converted, convert_unet, convert_vae, without_noise
from .lora_names import Shapes
from .noise_schedule import Noise, noise_of_single_file, without_marks
from .weight_changes import Address


@dataclass(frozen=True, eq=False)
class SingleFile:
    """``absent`` lists the parts ("vae", "text_encoder") that the file lacks.

    ``unused`` lists its keys that fit no model, without those that trainers leave
    beside the weights (``ldm.without_noise``). ``noise`` is what it says of the noise
    schedule.
    """

    name: str
    tensors: Mapping[Address, Tensor]
    absent: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    noise: Noise = field(default_factory=dict[str, Any])


def read_single_file(
    file: AnyFile,
    family: Family,
    shapes: Shapes,
    layers_per_block: int,
    vae_config: Mapping[str, Any],
) -> SingleFile:
    """Every weight of a single file, for the model of ``family`` that has ``shapes``.

    Motion modules do not count. A file may lack the VAE or the text encoder; the parts
    it has must be complete. Exponential moving averages beside the weights are ignored.

    Raises AssetError if there is no file, CheckpointError if it is of another kind.
    """
    file = WeightFile.of(file)
    content = read_content(file)
    name, raw = file.name, content.weights
    keys = without_marks(without_noise(raw))
    _check_family(name, raw, keys, family)
    prefixes = tuple(part.single_file_prefix for part in family.parts)
    unused = [key for key in keys if not key.startswith(prefixes)]
    tensors: dict[Address, Tensor] = {}
    absent: list[str] = []
    convert = _Converters(name, family, layers_per_block, vae_config)
    for part in family.parts:
        part_keys = [key for key in keys if key.startswith(part.single_file_prefix)]
        if not part_keys:
            absent.append(part.name)
            continue
        part_weights = {key: raw[key] for key in part_keys}
        part_shapes = shapes_of(part.name, shapes)
        weights, rest = convert.part(part, part_weights, part_shapes)
        check_keys_and_shapes(f"the {part.name} of {name}", weights, part_shapes)
        check_finite(name, weights)
        tensors |= {(part.name, key): tensor for key, tensor in weights.items()}
        unused += rest
    noise = noise_of_single_file(file, content)
    return SingleFile(name, tensors, tuple(absent), tuple(unused), noise)


@dataclass(frozen=True, eq=False)
class _Converters:
    """How the parts of the file ``name`` are converted."""

    name: str
    family: Family
    layers_per_block: int
    vae_config: Mapping[str, Any]

    def part(
        self,
        part: ModelPart,
        raw: Mapping[str, Tensor],
        shapes: Mapping[str, torch.Size],
    ) -> Converted:
        if part is self.family.unet:
            return convert_unet(self.name, raw, self.layers_per_block)
        if part is self.family.vae:
            return convert_vae(self.name, raw, self.vae_config)
        return _convert_text_encoder(self.name, part, raw, shapes)


def _check_family(
    name: str, raw: Mapping[str, Tensor], keys: list[str], family: Family
) -> None:
    model = marked_model(raw, context_width(raw))
    if model not in (None, family):
        raise CheckpointError(
            f"{name} is a model of {model.name}; one of {family.name} is expected",
            file=name,
        )
    if not any(key.startswith(family.unet.single_file_prefix) for key in keys):
        raise CheckpointError(
            f"{name} is not a single file of {family.name}: it is {described(raw)}",
            file=name,
        )
    if purpose := other_purpose(raw):
        raise CheckpointError(
            f"{name} is a model for {purpose}; one that makes pictures from words alone"
            f" is expected",
            file=name,
        )


def shapes_of(part: str, shapes: Shapes) -> dict[str, torch.Size]:
    """The shapes of one part's weights by key, without motion modules."""
    return {
        key: shape
        for (model, key), shape in shapes.items()
        if model == part and ".motion_modules." not in key
    }


def split(weights: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> Converted:
    """``weights`` of the modules that the model has, and the keys of all others.

    A text encoder's file may have a projection that the model lacks, for example.
    """
    modules = {key.partition(".")[0] for key in shapes}
    used: dict[str, Tensor] = {}
    unused: list[str] = []
    for key, tensor in weights.items():
        if key.partition(".")[0] in modules:
            used[key] = tensor
        else:
            unused.append(key)
    return used, tuple(unused)


def _convert_text_encoder(
    name: str,
    part: ModelPart,
    raw: Mapping[str, Tensor],
    shapes: Mapping[str, torch.Size],
) -> Converted:
    prefix, inner = part.single_file_prefix, part.inner_prefix

    def rename(key: str) -> str:
        return key.removeprefix(prefix).removeprefix(inner)

    weights, unused = split(renamed(name, raw, rename), shapes)
    return weights, tuple(prefix + key for key in unused)
