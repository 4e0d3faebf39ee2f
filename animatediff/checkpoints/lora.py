"""LoRA files -> low-rank changes of named weights.

MotionLoRA files and v3's domain adapter are LoRA files too.

Three layouts are read: kohya's trainer (``lora_unet_...`` with underscores for dots),
PEFT and diffusers (``unet....lora_A``), and the attention processors of old diffusers,
in which AnimateDiff's own files are published.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..families import Family, ModelPart
from .detect import described
from .files import read_weights

Address = tuple[str, str]
"""A model's name ("unet", "vae", "text_encoder") and a key of its state dict."""

Shapes = Mapping[Address, torch.Size]
"""The shape of every weight, to check a file with before any weight changes."""


@dataclass(frozen=True, eq=False)
class LowRank:
    """A change of one weight: ``up`` (c_out, r, ...) after ``down`` (r, c_in, ...).

    ``alpha`` is the file's own.
    """

    address: Address
    down: Tensor
    up: Tensor
    alpha: float | None

    def scale(self, ignore_file_alpha: bool) -> float:
        """The factor alpha / rank (arXiv 2106.09685, section 4.1).

        It is 1 if the file has no alpha, or if that is to be ignored.
        """
        if ignore_file_alpha or self.alpha is None:
            return 1.0
        return self.alpha / self.down.shape[0]


@dataclass(frozen=True, eq=False)
class Lora:
    """``unmatched`` lists the file's keys that belong to no weight of the model."""

    name: str
    layers: tuple[LowRank, ...]
    unmatched: tuple[str, ...]


_Parts = dict[str, Tensor]
"""The tensors of one layer under "down", "up" and "alpha"."""

_NOWHERE: Address = ("", "")
"""The address of a layer that the model lacks."""

_PEFT = re.compile(
    r"(?:base_model\.model\.)?(?P<model>[^.]+)\.(?P<name>.+?)(?:\.lora|\.lora_linear_layer)?"
    r"\.(?P<part>lora_A|lora_B|down|up|alpha)(?:\.default)?(?:\.weight)?"
)
_PROCESSOR = re.compile(
    r"(?:unet\.)?(?P<name>.+)\.processor\.(?P<to>to_q|to_k|to_v|to_out)_lora\.(?P<part>down|up)\.weight"
)
_KOHYA_PARTS = {"lora_down.weight": "down", "lora_up.weight": "up", "alpha": "alpha"}
_PEFT_PARTS = {"lora_A": "down", "lora_B": "up"}
_OTHER_KINDS = {
    ".dora_scale": "DoRA",
    ".lora_magnitude_vector": "DoRA",
    ".hada_w1_a": "LoHa",
    ".lokr_w1": "LoKr",
    ".lora_mid.weight": "LoCon with a middle factor",
}


def read_lora(path: str | Path, family: Family, shapes: Shapes) -> Lora:
    """Read a LoRA file for the model of ``family`` that has ``shapes``.

    The model does not change. Raises AssetError if there is no file; CheckpointError if
    it is of another kind, if none of its layers is in this model, if a layer has other
    widths, or if it is a MotionLoRA for another motion module.
    """
    name = Path(path).name
    raw = {
        key.removeprefix("module."): tensor
        for key, tensor in read_weights(path).items()
    }
    _check_kind(name, raw)
    places = _places(raw, family, shapes)
    if not places:
        raise CheckpointError(
            f"{name} is not a LoRA file: it is {described(raw)}", file=name
        )
    parts: dict[Address, _Parts] = {}
    unmatched: list[str] = []
    for key, tensor in raw.items():
        address, part = places.get(key, (_NOWHERE, ""))
        if address in shapes:
            parts.setdefault(address, {})[part] = tensor
        else:
            unmatched.append(key)
    _check_motion_module(name, unmatched)
    if not parts:
        raise CheckpointError(
            f"{name} fits no layer of this model: none of its {len(raw)} keys is used",
            file=name,
        )
    layers = tuple(_layers(name, parts, shapes))
    return Lora(name, layers, tuple(unmatched))


def _check_kind(name: str, raw: Mapping[str, Tensor]) -> None:
    for key in raw:
        for mark, kind in _OTHER_KINDS.items():
            if mark in key:
                raise CheckpointError(
                    f"{name} is {kind}, which is not supported; a plain LoRA is"
                    f" expected",
                    file=name,
                )


def _check_motion_module(name: str, unmatched: list[str]) -> None:
    if any(key.startswith("mid_block.motion_modules.") for key in unmatched):
        raise CheckpointError(
            f"{name} is a MotionLoRA for a v2 motion module, and the one in use has"
            f" no mid-block module",
            file=name,
        )


def _places(
    keys: Iterable[str], family: Family, shapes: Shapes
) -> dict[str, tuple[Address, str]]:
    """The weight and the part ("down", "up", "alpha") that each key belongs to.

    Keys of no known layout are left out. A weight may be missing from ``shapes``.
    """
    changeable = [part for part in family.parts if part.kohya_prefix]
    names = {part.name: part.inner_prefix for part in changeable}
    kohya = {
        _kohya_name(part, key): (model, key)
        for part in changeable
        for model, key in shapes
        if model == part.name
    }
    prefixes = tuple(part.kohya_prefix for part in changeable)
    places: dict[str, tuple[Address, str]] = {}
    for key in keys:
        place = (
            _kohya_place(key, prefixes, kohya)
            or _processor_place(key)
            or _peft_place(key, names)
        )
        if place:
            places[key] = place
    return places


def _kohya_name(part: ModelPart, key: str) -> str:
    """The name that kohya's trainer gives a layer."""
    layer = part.inner_prefix + key.removesuffix(".weight")
    return part.kohya_prefix + layer.replace(".", "_")


def _kohya_place(
    key: str, prefixes: tuple[str, ...], addresses: Mapping[str, Address]
) -> tuple[Address, str] | None:
    layer, _, suffix = key.partition(".")
    part = _KOHYA_PARTS.get(suffix)
    if part is None or not layer.startswith(prefixes):
        return None
    return addresses.get(layer, _NOWHERE), part


def _processor_place(key: str) -> tuple[Address, str] | None:
    match = _PROCESSOR.fullmatch(key)
    if match is None:
        return None
    layer = "to_out.0" if match["to"] == "to_out" else match["to"]
    return ("unet", f"{match['name']}.{layer}.weight"), match["part"]


def _peft_place(
    key: str, inner_prefixes: Mapping[str, str]
) -> tuple[Address, str] | None:
    match = _PEFT.fullmatch(key)
    if match is None or match["model"] not in inner_prefixes:
        return None
    layer = match["name"].removeprefix(inner_prefixes[match["model"]])
    part = _PEFT_PARTS.get(match["part"], match["part"])
    return (match["model"], f"{layer}.weight"), part


def _layers(
    file: str, parts: Mapping[Address, _Parts], shapes: Shapes
) -> Iterator[LowRank]:
    for address, tensors in parts.items():
        down, up, alpha = (tensors.get(part) for part in ("down", "up", "alpha"))
        if down is None or up is None:
            raise CheckpointError(
                f"{file}: {address[1]} has only {', '.join(tensors)}, needs down and"
                f" up",
                file=file,
            )
        if not _fits(down, up, shapes[address]):
            raise CheckpointError(
                f"{file} does not fit this model: {address[1]} is"
                f" {tuple(shapes[address])}, its change"
                f" {tuple(up.shape)} x {tuple(down.shape)}",
                file=file,
            )
        if alpha is not None and alpha.numel() != 1:
            raise CheckpointError(
                f"{file}: {address[1]} has an alpha of {alpha.numel()} numbers",
                file=file,
            )
        yield LowRank(address, down, up, None if alpha is None else float(alpha))


def _fits(down: Tensor, up: Tensor, shape: torch.Size) -> bool:
    """Whether ``up`` after ``down`` has the ``shape`` (c_out, c_in, ...)."""
    if min(down.ndim, up.ndim) < 2:
        return False
    rank, inputs = down.shape[0], shape[1:]
    if up.shape[:2] != (shape[0], rank) or up[0].numel() != rank:
        return False
    return down.shape[1:] == inputs or down.flatten(1).shape[1] == inputs.numel()
