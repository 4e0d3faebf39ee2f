"""What a weight file is, told from its keys and shapes and never from its name."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..errors import CheckpointError
from .motion_layout import motion_layout, published_key

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class FileKind:
    """``kind`` in words; ``version`` within the kind, where it has one; ``ranks`` of a
    LoRA's layers.
    """

    kind: str
    version: str = ""
    ranks: tuple[int, ...] = ()
    parts: tuple[str, ...] = ()


def detect(weights: Weights, name: str = "the file") -> FileKind:
    """What ``weights`` are. Raises CheckpointError, with the first few keys, for
    nothing that is known here.
    """
    weights = {key.removeprefix("module."): tensor for key, tensor in weights.items()}
    for rule in _RULES:
        if (kind := rule(weights)) is not None:
            return kind
    shown = ", ".join(sorted(weights)[:3]) or "no tensors"
    raise CheckpointError(
        f"{name} is none of the known kinds of weight file: {len(weights)} keys"
        f" ({shown})",
        file=name,
    )


def described(weights: Weights) -> str:
    """What ``weights`` are in a few words, for a message that refuses them."""
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
    if not (
        _starts(weights, "controlnet_cond_embedding.")
        and _any(weights, ".motion_modules.")
    ):
        return None
    return FileKind(
        "SparseCtrl",
        "rgb" if "controlnet_cond_embedding.weight" in weights else "scribble",
    )


_LDM_PARTS = {
    "unet": ("model.diffusion_model.",),
    "vae": ("first_stage_model.",),
    "text encoder": ("cond_stage_model.", "conditioner.embedders."),
    "moving averages": ("model_ema.",),
}


def _single_file(weights: Weights) -> FileKind | None:
    if not _starts(weights, "model.diffusion_model."):
        return None
    version = "SD 1.5"
    if _starts(weights, "conditioner.embedders."):
        version = "SDXL"
    elif _starts(weights, "cond_stage_model.model."):
        version = "SD 2"
    parts = tuple(
        part for part, prefixes in _LDM_PARTS.items() if _starts(weights, *prefixes)
    )
    return FileKind("single file (LDM)", version, parts=parts)


_DOWN = re.compile(
    r"lora_down\.weight$|\.lora_A\.|\.lora\.down\.|_lora\.down\.|lora_linear_layer\.down\."
)


def _lora(weights: Weights) -> FileKind | None:
    ranks = tuple(
        sorted(
            {
                tensor.shape[0]
                for key, tensor in weights.items()
                if _DOWN.search(key) and tensor.ndim
            }
        )
    )
    if _any(weights, ".hada_w1_a"):
        return FileKind("LoHa")
    if _any(weights, ".lokr_w1"):
        return FileKind("LoKr")
    if not ranks:
        return None
    if _any(weights, ".dora_scale", ".lora_magnitude_vector"):
        return FileKind("DoRA", ranks=ranks)
    if _any(weights, ".motion_modules."):
        return FileKind(
            "MotionLoRA",
            "v2" if _any(weights, "mid_block.motion_modules.") else "v1 or v3",
            ranks,
        )
    if _any(weights, ".processor."):
        return FileKind("domain adapter", ranks=ranks)
    layout = "kohya" if _starts(weights, "lora_") else "PEFT / diffusers"
    return FileKind("LoRA", layout, ranks)


def _motion_module(weights: Weights) -> FileKind | None:
    if _any(weights, ".temporal_attentions."):
        return FileKind("Hotshot-XL temporal layers")
    published = {published_key(key): tensor for key, tensor in weights.items()}
    layout = motion_layout(published)
    if not layout.blocks:
        return None
    written = (
        "" if published.keys() == weights.keys() else ", diffusers MotionAdapter layout"
    )
    tables = tuple(f"positional table of {length}" for length in layout.lengths)
    if layout.for_sdxl:
        return FileKind(f"motion module{written}", "SDXL", parts=tables)
    if not layout.is_whole:
        return FileKind(f"part of a motion module{written}", parts=tables)
    return FileKind(
        f"motion module{written}", layout.version or "v1 or v3", parts=tables
    )


TEXT_WIDTHS = {768: "SD 1.5", 1024: "SD 2"}


def _textual_inversion(weights: Weights) -> FileKind | None:
    if weights.keys() == {"clip_l", "clip_g"}:
        return FileKind("textual inversion", "SDXL")
    if len(weights) != 1:
        return None
    ((key, tensor),) = weights.items()
    if tensor.ndim not in (1, 2) or (
        tensor.shape[-1] not in TEXT_WIDTHS and key not in ("emb_params", "*")
    ):
        return None
    return FileKind(
        "textual inversion",
        TEXT_WIDTHS.get(tensor.shape[-1], "of another text encoder"),
    )


def _model_part(weights: Weights) -> FileKind | None:
    if _starts(weights, "down_blocks.") and "conv_in.weight" in weights:
        return FileKind("UNet, diffusers layout")
    if _starts(weights, "encoder.down_blocks.", "decoder.up_blocks."):
        return FileKind("VAE, diffusers layout")
    if _starts(weights, "encoder.down.", "decoder.up.", "first_stage_model."):
        return FileKind("VAE, LDM layout")
    if _any(weights, "embeddings.token_embedding.weight"):
        return FileKind("CLIP text encoder")
    return None


_RULES: Iterable[Callable[[Weights], FileKind | None]] = (
    _sparsectrl,
    _single_file,
    _lora,
    _motion_module,
    _textual_inversion,
    _model_part,
)
