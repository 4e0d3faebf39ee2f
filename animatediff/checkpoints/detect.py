"""The kind of a weight file, decided by its keys and shapes, not by its name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..errors import CheckpointError
from ..families import Family
from ..families.base import UNET_PREFIX, VAE_PREFIX
from ..families.recognition import (
    marked_model,
    model_of_embedding_keys,
    model_of_single_file,
    model_of_text_width,
    others_with_latents,
)
from .lora_layout import LoraLayout, lora_layout
from .motion_layout import motion_layout, published_key

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class FileKind:
    """``kind`` is in words, ``version`` the kind's own, ``ranks`` those of a LoRA.

    ``parts`` lists what the file contains.
    """

    kind: str
    version: str = ""
    ranks: tuple[int, ...] = ()
    parts: tuple[str, ...] = ()


def detect(weights: Weights, name: str = "the file") -> FileKind:
    """The kind of file that ``weights`` come from.

    Raises CheckpointError, with the first few keys, if it is no known kind.
    """
    weights = _unwrapped(weights)
    for rule in _RULES:
        if (kind := rule(weights)) is not None:
            return kind
    examples = ", ".join(sorted(weights)[:3]) or "no tensors"
    raise CheckpointError(
        f"{name} is none of the known kinds of weight file: {len(weights)} keys"
        f" ({examples})",
        file=name,
    )


def lora_in(weights: Weights) -> LoraLayout | None:
    """The layout of a LoRA file or its kin; None if ``weights`` are of another kind."""
    unwrapped = _unwrapped(weights)
    earlier = _RULES[: _RULES.index(_lora)]
    if any(rule(unwrapped) for rule in earlier):
        return None
    return lora_layout(weights)


def _unwrapped(weights: Weights) -> Weights:
    return {key.removeprefix("module."): tensor for key, tensor in weights.items()}


def described(weights: Weights) -> str:
    """The kind of ``weights`` in a few words, for a message that refuses them."""
    try:
        kind = detect(weights)
    except CheckpointError:
        return "of no known kind"
    return f"{kind.kind} {kind.version}".strip()


def _any(weights: Weights, *marks: str) -> bool:
    return any(mark in key for key in weights for mark in marks)


def _starts(weights: Weights, *prefixes: str) -> bool:
    return any(key.startswith(prefixes) for key in weights)


def _sparsectrl(weights: Weights) -> FileKind | None:
    if not _starts(weights, "controlnet_cond_embedding."):
        return None
    if not _any(weights, ".motion_modules."):
        return None
    takes_latents = "controlnet_cond_embedding.weight" in weights
    return FileKind("SparseCtrl", "rgb" if takes_latents else "scribble")


_SINGLE_FILE_PARTS = {
    "unet": (UNET_PREFIX,),
    "vae": (VAE_PREFIX,),
    "text encoder": ("cond_stage_model.", "conditioner.embedders."),
    "moving averages": ("model_ema.",),
}


def _single_file(weights: Weights) -> FileKind | None:
    unet = {key: part for key, part in weights.items() if key.startswith(UNET_PREFIX)}
    layout = lora_layout(unet)
    if not unet or (layout is not None and not layout.strays):
        return None
    parts = tuple(
        part
        for part, prefixes in _SINGLE_FILE_PARTS.items()
        if _starts(weights, *prefixes)
    )
    version = model_of_single_file(weights, context_width(weights)).name
    if purpose := other_purpose(weights):
        version += f", for {purpose}"
    return FileKind("single file (LDM)", version, parts=parts)


def context_width(weights: Weights) -> int | None:
    """Numbers in a vector of the text that cross-attention reads, if there is any."""
    tensors = (
        tensor
        for key, tensor in weights.items()
        if key.endswith("attn2.to_k.weight") and tensor.ndim == 2
    )
    return next((tensor.shape[1] for tensor in tensors), None)


_PURPOSES = {8: "editing by instructions", 9: "inpainting"}
"""The purpose of UNets that take more than latents, by number of channels."""


def other_purpose(weights: Weights) -> str:
    """The purpose of a UNet that takes more than latents; "" for any other."""
    for key in (f"{UNET_PREFIX}input_blocks.0.0.weight", "conv_in.weight"):
        tensor = weights.get(key)
        if tensor is not None and tensor.ndim == 4:
            return _PURPOSES.get(tensor.shape[1], "")
    return ""


def _other_model(weights: Weights) -> str:
    """The name of a model that does not run here, if the weights are of one."""
    model = marked_model(weights, context_width(weights))
    return "" if model is None or isinstance(model, Family) else model.name


def _still_control(weights: Weights) -> FileKind | None:
    if _starts(weights, "controlnet_", "control_model."):
        return FileKind("ControlNet for still images", _other_model(weights))
    if _starts(weights, "adapter.body.", "body.0."):
        return FileKind("T2I-Adapter for still images")
    return None


def _lora(weights: Weights) -> FileKind | None:
    layout = lora_layout(weights)
    if layout is None:
        return None
    version = layout.version
    if layout.model is not None and not isinstance(layout.model, Family):
        version += f", for {layout.model.name}"
    return FileKind(layout.kind, version, layout.ranks)


def _motion_module(weights: Weights) -> FileKind | None:
    if _any(weights, ".temporal_attentions."):
        return FileKind("Hotshot-XL temporal layers")
    published = {published_key(key): tensor for key, tensor in weights.items()}
    layout = motion_layout(published)
    if not layout.blocks:
        return None
    is_published = published.keys() == weights.keys()
    kind = "motion module"
    kind += "" if is_published else ", diffusers MotionAdapter layout"
    tables = tuple(f"positional table of {length}" for length in layout.lengths)
    if layout.model is None:
        return FileKind(f"part of a {kind}", parts=tables)
    if not isinstance(layout.model, Family):
        return FileKind(kind, layout.model.name, parts=tables)
    return FileKind(kind, layout.possible_versions(layout.model), parts=tables)


def _textual_inversion(weights: Weights) -> FileKind | None:
    if model := model_of_embedding_keys(weights):
        return FileKind("textual inversion", model.name)
    if not is_table_of_words(weights):
        return None
    width = next(iter(weights.values())).shape[-1]
    if model := model_of_text_width(width):
        return FileKind("textual inversion", model.name)
    if weights.keys() & {"emb_params", "*"}:
        return FileKind("textual inversion", "of another text encoder")
    return None


def is_table_of_words(weights: Weights) -> bool:
    """Whether ``weights`` may be vectors of one width by words, not by layers."""
    tensors = weights.values()
    widths = {tensor.shape[-1] for tensor in tensors if tensor.ndim in (1, 2)}
    if len(widths) != 1 or not all(tensor.ndim in (1, 2) for tensor in tensors):
        return False
    are_layers = any("." in key or key in ("weight", "bias") for key in weights)
    return len(weights) == 1 or not are_layers


def _model_part(weights: Weights) -> FileKind | None:
    if _starts(weights, "down_blocks.") and "conv_in.weight" in weights:
        purpose = other_purpose(weights)
        version = _other_model(weights) + (f", for {purpose}" if purpose else "")
        return FileKind("UNet, diffusers layout", version.strip(", "))
    if _starts(weights, "encoder.down_blocks.", "decoder.up_blocks."):
        return FileKind("VAE, diffusers layout", _other_latents(weights))
    if _starts(weights, "encoder.down.", "decoder.up.", VAE_PREFIX):
        return FileKind("VAE, LDM layout", _other_latents(weights))
    if _any(weights, "embeddings.token_embedding.weight"):
        return FileKind("CLIP text encoder")
    if model := _other_model(weights):
        return FileKind("image model", model)
    return None


def _other_latents(weights: Weights) -> str:
    for prefix in ("", VAE_PREFIX):
        tensor = weights.get(f"{prefix}decoder.conv_in.weight")
        if tensor is not None and tensor.ndim == 4:
            return others_with_latents(tensor.shape[1])
    return ""


_RULES: Sequence[Callable[[Weights], FileKind | None]] = (
    _sparsectrl,
    _still_control,
    _single_file,
    _lora,
    _motion_module,
    _textual_inversion,
    _model_part,
)
