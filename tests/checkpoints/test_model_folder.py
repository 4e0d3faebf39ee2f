"""Folders in diffusers' layout, as libraries of several ages save them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from animatediff.checkpoints.diffusers_folder import (
    load_text_encoder,
    load_tokenizer,
    load_unet,
    load_vae,
    read_architecture,
    read_memory_model,
)
from animatediff.checkpoints.folder_weights import find_weights
from animatediff.errors import AssetError, CheckpointError
from animatediff.families import SD15
from animatediff.settings import Settings

EMBEDDED = Settings().models_dir / "shapeworld"
CPU = torch.device("cpu")
HALF, FULL = torch.float16, torch.float32
(TEXT,) = SD15.text_encoders
Weights = dict[str, Tensor]
Save = Callable[[Weights, Path], None]


def saved(save: Callable[..., None], name: str) -> Save:
    return lambda weights, folder: save(weights, folder / name)


def in_shards(index: str, shard: str, save: Callable[..., None] = save_file) -> Save:
    def write(weights: Weights, folder: Path) -> None:
        names = {key: shard.format(1 + i % 3) for i, key in enumerate(weights)}
        for name in set(names.values()):
            part = {key: weights[key] for key in weights if names[key] == name}
            save(part, folder / name)
        (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": names}))

    return write


STEM = "diffusion_pytorch_model"
FORMS: dict[str, Save] = {
    "safetensors": saved(save_file, f"{STEM}.safetensors"),
    "half precision": saved(save_file, f"{STEM}.fp16.safetensors"),
    "pickle": saved(torch.save, f"{STEM}.bin"),
    "pickle in half precision": saved(torch.save, f"{STEM}.fp16.bin"),
    "without averages": saved(save_file, f"{STEM}.non_ema.safetensors"),
    "pickle without averages": saved(torch.save, f"{STEM}.non_ema.bin"),
    "shards": in_shards(
        f"{STEM}.safetensors.index.json", STEM + "-0000{}-of-00003.safetensors"
    ),
    "shards in half precision": in_shards(
        f"{STEM}.safetensors.index.fp16.json",
        STEM + "-0000{}-of-00003.fp16.safetensors",
    ),
    "older shards in half precision": in_shards(
        f"{STEM}.fp16.safetensors.index.json",
        STEM + ".fp16-0000{}-of-00003.safetensors",
    ),
    "pickled shards": in_shards(
        f"{STEM}.bin.index.json", STEM + "-0000{}-of-00003.bin", torch.save
    ),
}


def vae_weights() -> Weights:
    return load_file(EMBEDDED / "vae" / f"{STEM}.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "vae"
    folder.mkdir()
    shutil.copy(EMBEDDED / "vae" / "config.json", folder)
    return folder


@pytest.mark.parametrize("dtype", [HALF, FULL])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_the_same_weights(
    form: str, dtype: torch.dtype, folder: Path
) -> None:
    weights = vae_weights()
    FORMS[form](weights, folder)
    assert find_weights(folder, SD15.vae, dtype).read().keys() == weights.keys()
    vae = load_vae(folder, CPU, dtype)
    assert vae.dtype is dtype
    state = vae.state_dict()
    assert all(torch.equal(state[key], weights[key].to(dtype)) for key in weights)


@pytest.mark.parametrize(
    ("forms", "dtype", "name"),
    [
        (["safetensors", "half precision"], HALF, f"{STEM}.fp16.safetensors"),
        (["safetensors", "half precision"], FULL, f"{STEM}.safetensors"),
        (["pickle", "safetensors"], FULL, f"{STEM}.safetensors"),
        (["pickle", "without averages"], FULL, f"{STEM}.bin"),
        (["half precision", "without averages"], FULL, f"{STEM}.fp16.safetensors"),
    ],
)
def test_the_best_file_is_read(
    forms: list[str], dtype: torch.dtype, name: str, folder: Path
) -> None:
    for form in forms:
        FORMS[form](vae_weights(), folder)
    assert find_weights(folder, SD15.vae, dtype).names == (name,)


def test_the_vae_is_the_one_that_diffusers_loads(folder: Path) -> None:
    FORMS["safetensors"](vae_weights(), folder)
    pixels = torch.rand(1, 3, 32, 32)
    theirs: Any = AutoencoderKL.from_pretrained(folder)
    ours = load_vae(folder, CPU, FULL)
    assert {**ours.config, "_name_or_path": folder} == theirs.config
    with torch.no_grad():
        expected = theirs.encode(pixels).latent_dist.mean
        torch.testing.assert_close(ours.encode(pixels).latent_dist.mean, expected)


@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_the_text_encoder_is_the_one_that_transformers_loads(
    prefix: str, tmp_path: Path
) -> None:
    folder = tmp_path / "text_encoder"
    shutil.copytree(EMBEDDED / "text_encoder", folder)
    weights = load_file(folder / "model.safetensors")
    weights = {
        prefix + key.removeprefix("text_model."): weights[key] for key in weights
    }
    weights[f"{prefix}embeddings.position_ids"] = torch.arange(77)[None]
    save_file(weights, folder / "model.safetensors")
    ours = load_text_encoder(folder, TEXT, CPU, FULL)
    theirs = CLIPTextModel.from_pretrained(EMBEDDED / "text_encoder", dtype=FULL)
    ids = torch.arange(77)[None]
    with torch.no_grad():
        expected = theirs(ids).last_hidden_state
        torch.testing.assert_close(ours(ids).last_hidden_state, expected)


@pytest.mark.parametrize(
    ("load", "part"),
    [
        (lambda folder: load_vae(folder, CPU, HALF), "vae"),
        (
            lambda folder: load_unet(
                folder, *read_architecture(folder.parent), CPU, HALF, "sdpa"
            ),
            "unet",
        ),
        (lambda folder: load_text_encoder(folder, TEXT, CPU, HALF), "text_encoder"),
    ],
)
@pytest.mark.parametrize("number", [float("nan"), 1e6])
def test_numbers_that_are_not_finite_are_named(
    number: float, load: Callable[[Path], object], part: str, tmp_path: Path
) -> None:
    """A million is finite, but not in half precision."""
    shutil.copytree(EMBEDDED / part, tmp_path / part)
    (file,) = (tmp_path / part).glob("*.safetensors")
    weights = load_file(file)
    key = next(key for key in sorted(weights) if key.endswith("bias"))
    weights[key] = weights[key].float()
    weights[key][0] = number
    save_file(weights, file)
    with pytest.raises(CheckpointError, match=f"^{part}/{file.name} holds NaN or inf"):
        load(tmp_path / part)


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ("{", "is no index of weights"),
        ("[]", "is no index of weights"),
        ('{"weight_map": []}', "is no index of weights"),
        ('{"weight_map": {"a": {}}}', "is no index of weights"),
        ('{"weight_map": {}}', "lists no files"),
        ('{"weight_map": {"a": "absent.safetensors"}}', "no vae/absent.safetensors"),
        ('{"weight_map": {"a": "../vae/config.json"}}', "no vae/../vae/config.json"),
    ],
)
def test_a_damaged_index_is_refused(index: str, reason: str, folder: Path) -> None:
    (folder / f"{STEM}.safetensors.index.json").write_text(index)
    with pytest.raises((AssetError, CheckpointError), match=reason):
        find_weights(folder, SD15.vae, FULL)


def test_a_weight_in_two_shards_is_refused(folder: Path) -> None:
    FORMS["shards"](vae_weights(), folder)
    shard = folder / f"{STEM}-00001-of-00003.safetensors"
    shutil.copy(shard, folder / f"{STEM}-00002-of-00003.safetensors")
    with pytest.raises(CheckpointError, match="which another file of the model holds"):
        load_vae(folder, CPU, FULL)


def test_no_weights(folder: Path) -> None:
    with pytest.raises(AssetError, match=r"no weights in vae/.*fp16\.safet"):
        load_vae(folder, CPU, HALF)


def test_the_memory_model_counts_all_shards(tmp_path: Path) -> None:
    for part in ("unet", "vae", "text_encoder"):
        shutil.copytree(EMBEDDED / part, tmp_path / part)
    before = read_memory_model(tmp_path, FULL).weight_bytes
    weights = vae_weights()
    (tmp_path / "vae" / f"{STEM}.safetensors").unlink()
    FORMS["shards"](weights, tmp_path / "vae")
    assert read_memory_model(tmp_path, FULL).weight_bytes == before


@pytest.mark.parametrize("text", ["a red circle, moving up", "Ünïcode & (symbols): 3"])
def test_tokenizers_of_today_and_before(text: str, tmp_path: Path) -> None:
    before = load_tokenizer(EMBEDDED / "tokenizer", TEXT)
    CLIPTokenizer.from_pretrained(EMBEDDED / "tokenizer").save_pretrained(tmp_path)
    assert not (tmp_path / "vocab.json").exists()
    today = load_tokenizer(tmp_path, TEXT)
    assert today(text).input_ids == before(text).input_ids
    assert today.model_max_length == before.model_max_length


def test_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"tokenizer\.json, and no .*vocab\.json"):
        load_tokenizer(tmp_path, TEXT)
    shutil.copy(EMBEDDED / "tokenizer" / "vocab.json", tmp_path)
    with pytest.raises(AssetError, match=r"tokenizer\.json, and no .*merges\.txt"):
        load_tokenizer(tmp_path, TEXT)
