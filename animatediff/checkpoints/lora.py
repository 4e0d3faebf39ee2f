"""LoRA files -> low-rank changes of named weights. Also MotionLoRA and v3's domain
adapter, which are LoRA too.

Three layouts: kohya's trainer (``lora_unet_...`` with underscores for dots), PEFT and
diffusers (``unet....lora_A``), and the attention processors of old diffusers, in which
AnimateDiff's own files are published.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from .detect import described
from .files import read_weights

Address = tuple[str, str]
"""Which model ("unet", "vae", "text_encoder") and which key of its state dict."""

Shapes = Mapping[Address, torch.Size]
"""What a model has, so that a file can be held against it before anything is changed.
"""


@dataclass(frozen=True, eq=False)
class LowRank:
    """A change of one weight: ``up`` (c_out, r, ...) after ``down`` (r, c_in, ...).
    ``alpha`` as in the file.
    """

    address: Address
    down: Tensor
    up: Tensor
    alpha: float | None

    def scale(self, ignore_file_alpha: bool) -> float:
        """alpha / rank (arXiv 2106.09685, section 4.1), 1 where the file has no alpha
        or it is to be ignored.
        """
        return (
            1.0
            if ignore_file_alpha or self.alpha is None
            else self.alpha / self.down.shape[0]
        )


@dataclass(frozen=True, eq=False)
class Lora:
    """``unmatched``: keys of the file that belong to no weight of the model, and are
    not used.
    """

    name: str
    layers: tuple[LowRank, ...]
    unmatched: tuple[str, ...]


_KOHYA = re.compile(
    r"(lora_unet|lora_te)_(?P<name>[^.]+)\.(?P<part>lora_down\.weight|lora_up\.weight|alpha)"
)
_PEFT = re.compile(
    r"(?:base_model\.model\.)?(?P<model>unet|text_encoder)\.(?P<name>.+?)(?:\.lora|\.lora_linear_layer)?"
    r"\.(?P<part>lora_A|lora_B|down|up|alpha)(?:\.default)?(?:\.weight)?"
)
_PROCESSOR = re.compile(
    r"(?:unet\.)?(?P<name>.+)\.processor\.(?P<to>to_q|to_k|to_v|to_out)_lora\.(?P<part>down|up)\.weight"
)
_PARTS = {
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora_A": "down",
    "lora_B": "up",
}
_OTHER_KINDS = {
    ".dora_scale": "DoRA",
    ".lora_magnitude_vector": "DoRA",
    ".hada_w1_a": "LoHa",
    ".lokr_w1": "LoKr",
    ".lora_mid.weight": "LoCon with a middle factor",
}


def read_lora(path: str | Path, shapes: Shapes) -> Lora:
    """Read a LoRA file for the model that has ``shapes``. The model is not touched.

    Raises AssetError where there is no file; CheckpointError for one of another kind,
    for one none of whose layers is in this model or of whose layers one has other
    widths, and for a MotionLoRA made for another motion module.
    """
    name = Path(path).name
    raw = {
        key.removeprefix("module."): tensor
        for key, tensor in read_weights(path).items()
    }
    for key in raw:
        for mark, kind in _OTHER_KINDS.items():
            if mark in key:
                raise CheckpointError(
                    f"{name} is {kind}, which is not supported; a plain LoRA is"
                    f" expected",
                    file=name,
                )
    flat = {_flat(address): address for address in shapes}
    parts: dict[Address, dict[str, Tensor]] = {}
    unmatched: list[str] = []
    recognised = False
    for key, tensor in raw.items():
        found = _locate(key, flat)
        recognised = recognised or found is not None
        if found is None or found[0] not in shapes:
            unmatched.append(key)
        else:
            parts.setdefault(found[0], {})[found[1]] = tensor
    if not recognised:
        raise CheckpointError(
            f"{name} is not a LoRA file: it is {described(raw)}", file=name
        )
    if any(key.startswith("mid_block.motion_modules.") for key in unmatched):
        raise CheckpointError(
            f"{name} is a MotionLoRA for a v2 motion module, and the one in use has"
            f" no mid-block module",
            file=name,
        )
    layers = tuple(_layers(name, parts, shapes))
    if not layers:
        raise CheckpointError(
            f"{name} fits no layer of this model, all {len(raw)} keys are left over",
            file=name,
        )
    return Lora(name, layers, tuple(unmatched))


def _flat(address: Address) -> str:
    """The name that kohya's trainer gives a layer."""
    model, key = address
    prefix = {"unet": "lora_unet_", "text_encoder": "lora_te_text_model_"}.get(
        model, f"{model}_"
    )
    return prefix + key.removesuffix(".weight").replace(".", "_")


def _locate(key: str, flat: Mapping[str, Address]) -> tuple[Address, str] | None:
    """The weight that ``key`` of a file belongs to, and its part: down, up or alpha.
    None for no known layout.
    """
    if match := _KOHYA.fullmatch(key):
        prefix = f"{match[1]}_{match['name']}"
        return flat.get(prefix, ("unet", prefix)), _PARTS.get(
            match["part"], match["part"]
        )
    if match := _PROCESSOR.fullmatch(key):
        layer = "to_out.0" if match["to"] == "to_out" else match["to"]
        return ("unet", f"{match['name']}.{layer}.weight"), match["part"]
    if match := _PEFT.fullmatch(key):
        name = match["name"].removeprefix("text_model.")
        return (match["model"], f"{name}.weight"), _PARTS.get(
            match["part"], match["part"]
        )
    return None


def _layers(
    file: str, parts: Mapping[Address, Mapping[str, Tensor]], shapes: Shapes
) -> Iterator[LowRank]:
    for address, found in parts.items():
        down, up, alpha = found.get("down"), found.get("up"), found.get("alpha")
        if down is None or up is None:
            raise CheckpointError(
                f"{file}: {address[1]} has only {', '.join(found)}, needs down and up",
                file=file,
            )
        c_out, *c_in = shapes[address]
        fits = (
            min(down.ndim, up.ndim) >= 2
            and up.shape[:2] == (c_out, down.shape[0])
            and up[0].numel() == down.shape[0]
            and (
                down.shape[1:] == torch.Size(c_in)
                or down.flatten(1).shape[1] == torch.Size(c_in).numel()
            )
        )
        if not fits:
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
