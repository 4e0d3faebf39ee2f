"""Compare what load_weights makes of weight files with reference numbers."""

import gzip
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from animatediff.job.prepared import LoraUse
from animatediff.pipeline import AnimationPipeline
from animatediff.published import load_weights

from .reference import (
    MERGED_LIMIT,
    TEXT_LIMIT,
    UNET_LIMIT,
    Comparison,
    Golden,
    compare,
    equal,
    read,
)

LORA_STRENGTH = 0.6
"""Of the LoRA whose alpha is checked."""


@torch.inference_mode()
def check_loading(golden: Golden, folder: Path) -> Iterator[Comparison]:
    """Load the files of each step, one after the other, and compare the models."""
    io, case = read(folder, "io.safetensors")
    checksums = json.loads(gzip.decompress((folder / "checksums.json.gz").read_bytes()))
    pipeline = golden.pipeline
    version = case["inference_config"]
    for step, described in case["steps"].items():
        arguments = _located(described["load_weights_kwargs"], folder)
        _load(pipeline, motion_module_version=version, **arguments)
        yield from _check_outputs(golden, case["timestep"], io, step)
        yield from _check_merged(pipeline, io, step)
        if step in checksums:
            name = f"loading/{step}.checksums"
            yield _compare_checksums(name, pipeline, checksums[step])
    yield _check_module_prefix(pipeline, folder, version)
    yield from _check_file_alpha(pipeline, folder)
    pipeline.configure_weights(None, None, ())


def _load(pipeline: AnimationPipeline, **arguments: Any) -> None:
    """Load without the warning about weights that fit no layer; one file has some."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* which do nothing")
        load_weights(pipeline, **arguments)


def _located(arguments: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the arguments of load_weights with paths in place of file names."""
    located = {
        key: folder / value if key.endswith("_path") else value
        for key, value in arguments.items()
    }
    loras = arguments.get("motion_module_lora_configs", ())
    located["motion_module_lora_configs"] = [
        {**lora, "path": folder / lora["path"]} for lora in loras
    ]
    return located


def _check_outputs(
    golden: Golden, timestep: int, io: Mapping[str, Tensor], step: str
) -> Iterator[Comparison]:
    """Compare what the three models compute after a step."""
    name, pipeline = f"loading/{step}", golden.pipeline
    sample, states = (
        io[key].to(golden.dtype) for key in ("sample", "encoder_hidden_states")
    )
    output = pipeline.unet(sample, timestep, states)
    yield compare(f"{name}.unet_out", output, io[f"{step}.unet_out"], UNET_LIMIT)
    text = pipeline.texts.models[0].encoder(io["prompt_ids"].long()).last_hidden_state
    yield compare(f"{name}.text_out", text, io[f"{step}.text_out"], TEXT_LIMIT)
    expected = io.get(f"{step}.vae_decode")
    if expected is not None:
        decoded = pipeline.vae.decode(io["vae_latent"].to(golden.dtype)).sample
        yield compare(f"{name}.vae_decode", decoded, expected, UNET_LIMIT)


def _check_merged(
    pipeline: AnimationPipeline, io: Mapping[str, Tensor], step: str
) -> Iterator[Comparison]:
    """Compare the UNet's weights that the reference lists."""
    prefix = f"{step}.merged."
    weights = pipeline.unet.state_dict()
    for key in sorted(key for key in io if key.startswith(prefix)):
        expected = io[key]
        merged = weights[key.removeprefix(prefix)].reshape(expected.shape)
        yield compare(f"loading/{key}", merged, expected, MERGED_LIMIT)


def _compare_checksums(
    name: str, pipeline: AnimationPipeline, listed: Mapping[str, Sequence[float]]
) -> Comparison:
    """Compare sum and sum of magnitudes of every weight, relative to the latter.

    The file also lists a table of positions, which is no weight.
    """
    weights = _weights_by_published_key(pipeline)
    sums = {key: listed[key] for key in listed if not key.endswith("position_ids")}
    different = sorted(weights.keys() ^ sums.keys())
    if different:
        return Comparison(name, math.inf, 0.0, f"other keys: {different[:3]}")
    errors: list[float] = []
    for key, (total, magnitude) in sums.items():
        weight = weights[key].double()
        unit = max(magnitude, 1e-6)
        errors.append(abs(weight.sum().item() - total) / unit)
        errors.append(abs(weight.abs().sum().item() - magnitude) / unit)
    return Comparison(name, max(errors, default=math.inf), MERGED_LIMIT)


def _weights_by_published_key(pipeline: AnimationPipeline) -> dict[str, Tensor]:
    prefix = "text_encoder.text_model."
    text = pipeline.texts.models[0].encoder.state_dict()
    return {
        **pipeline.unet.state_dict(),
        **{f"{prefix}{key}": value for key, value in text.items()},
    }


def _check_module_prefix(
    pipeline: AnimationPipeline, folder: Path, version: str
) -> Comparison:
    """Check a file with keys behind ``module.``, as the published trainer writes them.

    The published loader refuses such a file; ours takes it.
    """
    name = "loading/module_prefix (ours: accepted)"
    path = folder / "mm_v2_module_prefix.ckpt"
    _load(pipeline, motion_module_path=path, motion_module_version=version)
    content = torch.load(path, weights_only=True)
    weights = pipeline.unet.state_dict()
    errors: list[float] = []
    for key, tensor in content.get("state_dict", content).items():
        if ".motion_modules." in key and not key.endswith("pos_encoder.pe"):
            weight = weights[key.removeprefix("module.")]
            errors.append(compare("", weight, tensor, 0).error)
    return Comparison(name, max(errors, default=math.inf), 0.0)


def _check_file_alpha(
    pipeline: AnimationPipeline, folder: Path
) -> Iterator[Comparison]:
    """Compare merged LoRA weights with a recomputation that applies alpha / rank.

    The published loader leaves alpha out; ours applies it.
    """
    path = folder / "kohya_lora.safetensors"
    pipeline.configure_weights(None, None, ())
    before = _kohya_layers(pipeline)
    lora = [LoraUse(str(path), strength=LORA_STRENGTH)]
    pipeline.configure_weights(None, None, lora)
    raw = load_file(path)
    error = 0.0
    for layer, merged in _kohya_layers(pipeline).items():
        expected = before[layer] + _lora_change(raw, layer, before[layer])
        error = max(error, compare("", merged, expected, 0).error)
    changed = sum(f"{layer}.alpha" in raw for layer in before)
    alphas = sum(key.endswith(".alpha") for key in raw)
    yield Comparison("loading/file_alpha (ours: alpha / rank)", error, MERGED_LIMIT)
    yield equal("loading/file_alpha layers", changed, alphas)


def _kohya_layers(pipeline: AnimationPipeline) -> dict[str, Tensor]:
    """Return copies of all weights, by the names that kohya's trainer gives layers."""
    models = {
        "lora_unet_": pipeline.unet,
        "lora_te_text_model_": pipeline.texts.models[0].encoder,
    }
    return {
        prefix + key.removesuffix(".weight").replace(".", "_"): value.clone()
        for prefix, model in models.items()
        for key, value in model.state_dict().items()
    }


def _lora_change(
    raw: Mapping[str, Tensor], layer: str, weight: Tensor
) -> Tensor | float:
    """Return what the LoRA adds to a weight: strength * alpha / rank * up @ down."""
    alpha = raw.get(f"{layer}.alpha")
    if alpha is None:
        return 0.0
    up = raw[f"{layer}.lora_up.weight"].to(weight.dtype)
    down = raw[f"{layer}.lora_down.weight"].to(weight.dtype)
    scale = LORA_STRENGTH * alpha.item() / len(down)
    return scale * torch.einsum("or...,ri...->oi...", up, down)
