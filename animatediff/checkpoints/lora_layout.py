"""The grammar of keys in LoRA files and their kin, for the detector and the reader.

A key names a layer, and a part of the layer's change. Trainers write both in many ways:

- kohya's: ``lora_unet_down_blocks_0_..._to_q.lora_down.weight``;
- PEFT's: ``base_model.model.down_blocks.0...to_q.lora_A.default.weight``;
- diffusers': ``unet.down_blocks.0...to_q.lora.down.weight``;
- attention processors of old diffusers: ``...attn1.processor.to_q_lora.down.weight``,
  in which AnimateDiff's own files are published.

Here a layer's name has underscores for dots and no wrappers: ``unet_down_blocks_0...``.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..families import ModelMarks
from ..families.recognition import model_of_lora
from .weight_changes import (
    Tensors,
    difference,
    hadamard,
    kronecker,
    low_rank,
    scaling,
)

_LORA = r"(?:[._]lora(?:_linear_layer|_layer)?)"
_ADAPTER = r"(?:\.(?!(?:weight|bias|alpha)$)[^.]+)?"
"""The name that PEFT gives an adapter, between the part and "weight"."""
_KEY = re.compile(
    rf"(?P<layer>.+?)(?:"
    rf"{_LORA}\.(?P<old>down|up)(?:\.weight)?"
    rf"|\.lora_(?P<new>A|B|down|up|mid){_ADAPTER}(?:\.weight)?"
    rf"|\.lora_(?:B|up){_ADAPTER}\.(?P<bias>bias)"
    rf"|(?:{_LORA}(?:\.down|\.up)?|\.lora_(?:A|B|down|up))?(?:\.weight)?"
    rf"\.(?P<alpha>alpha|network_alpha|lora_alpha)"
    rf"|\.(?P<magnitude>dora_scale|lora_magnitude_vector){_ADAPTER}(?:\.weight)?"
    rf"|\.(?P<name>hada_w[12]_[ab]|hada_t[12]|lokr_w[12](?:_[ab])?|lokr_t[12]"
    rf"|diff|diff_b|w_norm|b_norm|on_input|ia3_l){_ADAPTER})"
)
_GROUPS = ("old", "new", "bias", "alpha", "magnitude", "name")
_PARTS = {
    "A": "down",
    "B": "up",
    "network_alpha": "alpha",
    "lora_alpha": "alpha",
    "lora_magnitude_vector": "row_magnitude",
    "dora_scale": "magnitude",
    "w_norm": "diff",
    "b_norm": "diff_b",
}
"""Names of parts in files -> our own, where they differ."""

_OTHER_METHODS = {
    r"\.oft_(diag|r|R)(\.|$)": "OFT",
    r"\.oft_blocks(\.|$)": "OFT or BOFT",
    r"\.boft_(R|s)(\.|$)": "BOFT",
    r"\.b1\.weight$": "GLoRA",
    r"\.lora_E(\.|$)": "AdaLoRA",
    r"\.vera_lambda_[bd](\.|$)": "VeRA",
    r"\.hra_u(\.|$)": "HRA",
    r"\.fourierft_spectrum(\.|$)": "FourierFT",
    r":\d+:(up|down)$": "LoRA whose layers have numbers for names",
}
"""Methods that are not supported, by what their keys contain."""


@dataclass(frozen=True)
class Method:
    """A way to change a weight: its ``equation`` needs one set of parts of ``forms``.

    ``rank`` names the part whose first axis is the rank, if there is one in the layer.
    """

    name: str
    forms: tuple[frozenset[str], ...]
    equation: Callable[[Tensors, Tensor], Tensor]
    optional: frozenset[str] = frozenset()
    rank: tuple[str, ...] = ()

    @property
    def parts(self) -> frozenset[str]:
        """All parts that a layer of this method may have."""
        return self.optional.union(*self.forms)

    def is_complete(self, parts: frozenset[str]) -> bool:
        """Whether ``parts`` are exactly what the equation needs."""
        return parts - self.optional in self.forms


def _forms(*names: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(form.split()) for form in names)


_LOKR = ("lokr_w1", "lokr_w1_a lokr_w1_b")
METHODS = (
    Method("LoRA", _forms("down up"), low_rank, frozenset({"mid"}), ("down",)),
    Method(
        "LoHa",
        _forms(
            "hada_w1_a hada_w1_b hada_w2_a hada_w2_b",
            "hada_w1_a hada_w1_b hada_t1 hada_w2_a hada_w2_b hada_t2",
        ),
        hadamard,
        rank=("hada_w1_b",),
    ),
    Method(
        "LoKr",
        _forms(
            *(f"{w1} lokr_w2" for w1 in _LOKR),
            *(f"{w1} lokr_w2_a lokr_w2_b" for w1 in _LOKR),
            *(f"{w1} lokr_t2 lokr_w2_a lokr_w2_b" for w1 in _LOKR),
        ),
        kronecker,
        rank=("lokr_w1_b", "lokr_w2_b"),
    ),
    Method("IA3", _forms("ia3 on_input", "ia3_l"), scaling),
    Method("full difference", _forms("diff"), difference),
)
"""Of several methods in a file, the first one here stands first in its kind."""

BIAS_PARTS = frozenset({"diff_b", "bias"})
"""Changes of a layer's bias, beside or without one of its weight."""


@dataclass(frozen=True, eq=False)
class LoraLayout:
    """The meaning of each key in a LoRA file.

    ``layers`` has the tensors of each layer by part. ``keys`` names the layer and part
    of each key; ``strays`` are the other keys. ``other`` are the methods that are not
    supported.
    """

    naming: str
    layers: Mapping[str, Mapping[str, Tensor]]
    keys: Mapping[str, tuple[str, str]]
    strays: tuple[str, ...]
    other: tuple[str, ...]
    model: ModelMarks | None
    """The model for which the file was made, if its layers show it."""

    @property
    def kind(self) -> str:
        """The methods of the file, in words."""
        kind = ", ".join(self.other or self._methods()) or "change of biases"
        if not self.is_motion:
            return kind
        return "MotionLoRA" if kind == "LoRA" else f"MotionLoRA, {kind}"

    @property
    def version(self) -> str:
        """How its layers are named; of a MotionLoRA, for which module it was made."""
        if not self.is_motion:
            return self.naming
        return "v2" if self.has_motion_in("mid_block") else "v1 or v3"

    @property
    def is_motion(self) -> bool:
        """Whether it changes motion modules."""
        return any("motion_modules_" in layer for layer in self.layers)

    def has_motion_in(self, block: str) -> bool:
        """Whether it changes a motion module of ``block`` of the UNet."""
        return any(f"{block}_motion_modules_" in layer for layer in self.layers)

    @property
    def ranks(self) -> tuple[int, ...]:
        """All ranks of its matrices."""
        ranks = {rank_of(parts) for parts in self.layers.values()}
        return tuple(sorted(rank for rank in ranks if rank is not None))

    def _methods(self) -> Iterator[str]:
        for method in METHODS:
            of_method = [
                parts for parts in self.layers.values() if method_of(parts) is method
            ]
            plain = [parts for parts in of_method if not is_decomposed(parts)]
            if plain:
                yield method.name
            if len(plain) < len(of_method):
                yield "DoRA" if method.name == "LoRA" else f"{method.name} with DoRA"


def is_decomposed(parts: Mapping[str, Tensor]) -> bool:
    """Whether a layer's change is a DoRA's."""
    return not {"magnitude", "row_magnitude"}.isdisjoint(parts)


def method_of(parts: Mapping[str, Tensor]) -> Method | None:
    """The method of a layer's weight; None if it changes the bias alone."""
    if method := next((row for row in METHODS if row.parts & parts.keys()), None):
        return method
    return METHODS[0] if is_decomposed(parts) else None


def rank_of(parts: Mapping[str, Tensor]) -> int | None:
    """The rank of a layer's matrices; None if they are whole."""
    method = method_of(parts)
    names = () if method is None else method.rank
    tensors = (parts[name] for name in names if name in parts)
    return next((tensor.shape[0] for tensor in tensors if tensor.ndim), None)


def lora_layout(weights: Mapping[str, Tensor]) -> LoraLayout | None:
    """The layout of a LoRA file or its kin; None if ``weights`` are of another kind."""
    other = _other_methods(weights)
    places = {key: place for key in weights if (place := _place(key))}
    _find_factors(weights, places)
    layers: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, (layer, part) in places.items():
        layers[layer][part] = weights[key]
    if not other and all(parts.keys() <= {"alpha"} for parts in layers.values()):
        return None
    return LoraLayout(
        _naming(tuple(weights)),
        layers,
        places,
        tuple(key for key in weights if key not in places),
        other,
        model_of_lora(layers, _context_width(layers)),
    )


def _other_methods(weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    names = [
        name
        for mark, name in _OTHER_METHODS.items()
        if any(re.search(mark, key) for key in weights)
    ]
    glora = (key.removesuffix(".b1.weight") for key in weights if ".b1.weight" in key)
    if not any(
        {f"{name}.a1.weight", f"{name}.b2.weight"} <= weights.keys() for name in glora
    ):
        names = [name for name in names if name != "GLoRA"]
    return tuple(names)


def _place(key: str) -> tuple[str, str] | None:
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    part = next(match[group] for group in _GROUPS if match[group])
    return layer_name(match["layer"]), _PARTS.get(part, part)


def _find_factors(
    weights: Mapping[str, Tensor], places: dict[str, tuple[str, str]]
) -> None:
    """(IA)^3 of LyCORIS calls its factors "weight", as everything else is called."""
    for key in list(places):
        layer, part = places[key]
        factors = key.removesuffix(".on_input") + ".weight"
        if part == "on_input" and factors in weights:
            places[factors] = layer, "ia3"


_WRAPPER = re.compile(r"(^|\.)(module|base_model\.model|_orig_mod)(?=\.)")


def layer_name(layer: str) -> str:
    """A layer's name as it stands in a file, without wrappers and dots."""
    name = _WRAPPER.sub("", layer).removeprefix(".").replace(".", "_")
    name = name.replace("_processor_", "_")
    return name.removeprefix("lora_").removeprefix("lycoris_")


def _naming(keys: Sequence[str]) -> str:
    if any(key.startswith(("lora_", "lycoris_")) for key in keys):
        return "kohya"
    if any(".processor." in key for key in keys):
        return "attention processors, as of a domain adapter"
    return "PEFT / diffusers"


_READS_TEXT = re.compile(r"attn2_to_[kv]$")
_INPUT_PARTS = ("down", "hada_w1_b", "diff")


def _context_width(layers: Mapping[str, Mapping[str, Tensor]]) -> int | None:
    """The width of the text that the layers of cross-attention read, if known."""
    for layer, parts in layers.items():
        if _READS_TEXT.search(layer) and "motion_modules" not in layer:
            for part in _INPUT_PARTS:
                if part in parts and parts[part].ndim == 2:
                    return parts[part].shape[1]
    return None
