"""The check of scripts/check_golden.py on weight files: what load_weights makes of
them.
"""

import gzip
import json
import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from animatediff.job.clip import LoraFile
from animatediff.pipeline import AnimationPipeline, load_weights

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


@torch.inference_mode()
def check_loading(golden: Golden, folder: Path) -> Iterator[Comparison]:
    io, case = read(folder, "io.safetensors")
    checksums = json.loads(gzip.decompress((folder / "checksums.json.gz").read_bytes()))
    pipeline = golden.pipeline
    version = case["inference_config"]
    for step, described in case["steps"].items():
        name = f"loading/{step}"
        kwargs = _located(described["load_weights_kwargs"], folder)
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message=".* which do nothing"
            )  # one file is a part, on purpose
            load_weights(pipeline, motion_module_version=version, **kwargs)
        inputs = [
            io["sample"].to(golden.dtype),
            case["timestep"],
            io["encoder_hidden_states"].to(golden.dtype),
        ]
        yield compare(
            f"{name}.unet_out",
            pipeline.unet(*inputs),
            io[f"{step}.unet_out"],
            UNET_LIMIT,
        )
        text = pipeline.text_encoder(io["prompt_ids"].long()).last_hidden_state
        yield compare(f"{name}.text_out", text, io[f"{step}.text_out"], TEXT_LIMIT)
        if f"{step}.vae_decode" in io:
            decoded = pipeline.vae.decode(io["vae_latent"].to(golden.dtype)).sample
            yield compare(
                f"{name}.vae_decode", decoded, io[f"{step}.vae_decode"], UNET_LIMIT
            )
        prefix = f"{step}.merged."
        weights = pipeline.unet.state_dict()
        for key in sorted(key for key in io if key.startswith(prefix)):
            got = weights[key.removeprefix(prefix)].reshape(io[key].shape)
            yield compare(f"loading/{key}", got, io[key], MERGED_LIMIT)
        if step in checksums:
            yield _compare_checksums(f"{name}.checksums", pipeline, checksums[step])
    yield _check_module_prefix(pipeline, folder, version)
    yield from _check_file_alpha(pipeline, folder)
    pipeline.configure_weights(None, None, ())


def _located(kwargs: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """File names in the arguments of load_weights as paths."""
    located = {
        key: folder / value if key.endswith("_path") else value
        for key, value in kwargs.items()
    }
    loras = [
        {**lora, "path": folder / lora["path"]}
        for lora in kwargs.get("motion_module_lora_configs", ())
    ]
    return {**located, "motion_module_lora_configs": loras}


def _compare_checksums(
    name: str, pipeline: AnimationPipeline, wanted: Mapping[str, list[float]]
) -> Comparison:
    """Sum and sum of magnitudes of every weight, relative to the latter. The file also
    lists a table of positions.
    """
    got = dict(pipeline.unet.state_dict())
    got |= {
        f"text_encoder.text_model.{key}": value
        for key, value in pipeline.text_encoder.state_dict().items()
    }
    wanted = {
        key: sums for key, sums in wanted.items() if not key.endswith("position_ids")
    }
    if got.keys() != wanted.keys():
        return Comparison(
            name, math.inf, 0.0, f"other keys: {sorted(got.keys() ^ wanted.keys())[:3]}"
        )
    errors = []
    for key, (total, magnitude) in wanted.items():
        ours = got[key].double()
        errors += [
            abs(ours.sum().item() - total),
            abs(ours.abs().sum().item() - magnitude),
        ]
        errors[-2:] = [error / max(magnitude, 1e-6) for error in errors[-2:]]
    return Comparison(name, max(errors, default=math.inf), MERGED_LIMIT)


def _check_module_prefix(
    pipeline: AnimationPipeline, folder: Path, version: str
) -> Comparison:
    """Keys behind ``module.``, as the published trainer writes them: its loader refuses
    these, ours takes them.
    """
    name = "loading/module_prefix (ours: accepted)"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* which do nothing")
        load_weights(pipeline, folder / "mm_v2_module_prefix.ckpt", version)
    content = torch.load(folder / "mm_v2_module_prefix.ckpt", weights_only=True)
    content = content.get("state_dict", content)
    weights = pipeline.unet.state_dict()
    compared = [
        compare("", weights[key.removeprefix("module.")], tensor, 0).error
        for key, tensor in content.items()
        if ".motion_modules." in key and not key.endswith("pos_encoder.pe")
    ]
    return Comparison(name, max(compared, default=math.inf), 0.0)


def _check_file_alpha(
    pipeline: AnimationPipeline, folder: Path
) -> Iterator[Comparison]:
    """Our own rule for LoRA files, alpha / rank, which the published loader leaves out:
    against a recomputation.
    """
    models = {"unet": pipeline.unet, "te": pipeline.text_encoder}
    pipeline.configure_weights(None, None, ())
    before = {
        name: {key: value.clone() for key, value in model.state_dict().items()}
        for name, model in models.items()
    }
    pipeline.configure_weights(
        None,
        None,
        [LoraFile(path=str(folder / "kohya_lora.safetensors"), strength=0.6)],
    )
    raw = load_file(folder / "kohya_lora.safetensors")
    changed = 0
    error = 0.0
    for name, model in models.items():
        prefix = "lora_te_text_model_" if name == "te" else "lora_unet_"
        for key, merged in model.state_dict().items():
            layer = prefix + key.removesuffix(".weight").replace(".", "_")
            wanted = before[name][key]
            if f"{layer}.alpha" in raw:
                down, up = (
                    raw[f"{layer}.lora_{part}.weight"].to(wanted.dtype)
                    for part in ("down", "up")
                )
                delta = torch.einsum("or...,ri...->oi...", up, down)
                wanted = wanted + 0.6 * raw[f"{layer}.alpha"].item() / len(down) * delta
                changed += 1
            error = max(error, compare("", merged, wanted, 0).error)
    alphas = sum(key.endswith(".alpha") for key in raw)
    yield Comparison("loading/file_alpha (ours: alpha / rank)", error, MERGED_LIMIT)
    yield equal("loading/file_alpha layers", changed, alphas)
