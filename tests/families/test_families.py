"""Families of image models: nothing else names one, and a config.json decides."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from animatediff import catalog
from animatediff.checkpoints.diffusers_folder import read_architecture
from animatediff.errors import AssetError, CheckpointError
from animatediff.families import DEFAULT, FAMILIES, MODELS, SD15, Family
from animatediff.families.config_file import ConfigFile
from animatediff.families.foreign import OTHER_MODELS
from animatediff.families.recognition import (
    marked_model,
    model_of_embedding_keys,
    model_of_single_file,
    model_of_text_width,
    others_with_latents,
)
from animatediff.families.unet_config import read_unet_config

ROOT = Path(__file__).parents[2]
SHAPEWORLD = ROOT / "models" / "shapeworld"
FAMILY_NAME = re.compile(r"SD ?1\.5|sd15|stable.?diffusion|SDXL|SD ?2\b", re.IGNORECASE)
# names of files and of sets of files that are published under a family's name
PUBLISHED = re.compile(r"v3_sd15_(?:mm|adapter|sparsectrl_[a-z]+)|sd15-v\d")
OF_ONE_FAMILY = {
    "animatediff/families": "the room of families",
    "lab/bench": "compares times with diffusers' at the size of the published model",
    "lab/counting": "counts memory and operations of the published model",
    "lab/golden": "the reference numbers were made with this family's models",
}
"""Folders that name a family, and why."""


def sources(place: str) -> list[Path]:
    return sorted((ROOT / place).rglob("*.py"))


SOURCES = [
    path
    for place in ("animatediff", "schemas", "scripts", "builder", "lab")
    for path in sources(place)
    if not any(path.is_relative_to(ROOT / folder) for folder in OF_ONE_FAMILY)
] + [ROOT / "handler.py", ROOT / "train.py", ROOT / "app.py"]


@pytest.mark.parametrize(
    "path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_nothing_else_names_a_family(path: Path) -> None:
    assert lines_with_a_family(path) == []


@pytest.mark.parametrize("folder", OF_ONE_FAMILY)
def test_an_exception_is_needed(folder: str) -> None:
    assert any(map(lines_with_a_family, sources(folder)))


def lines_with_a_family(path: Path) -> list[str]:
    lines = PUBLISHED.sub("", path.read_text()).splitlines()
    return [line for line in lines if FAMILY_NAME.search(line)]


def test_names_are_unique_across_families() -> None:
    families = FAMILIES.values()
    for rows in ("base_models", "motion_modules", "motion_versions"):
        names = [name for family in families for name in getattr(family, rows)]
        assert len(names) == len(set(names))
    assert len({model.name for model in MODELS}) == len(MODELS)
    assert {row.name for row in OTHER_MODELS}.isdisjoint(
        family.name for family in families
    )


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_rows_of_a_family_belong_together(family: Family) -> None:
    for row in family.base_models.values():
        assert set(row.motion_modules) <= set(family.motion_modules)
    for row in family.motion_modules.values():
        assert row.version in family.motion_versions
    assert set(family.motion_fallbacks) <= set(family.motion_versions)
    names = [part.name for part in family.parts]
    assert len(names) == len(set(names))


def test_the_catalog_collects_the_rows() -> None:
    assert catalog.BASE_MODELS["shapeworld"] is SD15.base_models["shapeworld"]
    assert catalog.MOTION_MODULES["shapeworld_v3"].version == "v3"
    assert catalog.base_model("some/folder") is catalog.BASE_MODELS["sd15"]
    assert catalog.base_model("shapeworld") is catalog.BASE_MODELS["shapeworld"]


def test_the_folder_decides_the_family(tmp_path: Path) -> None:
    assert read_architecture(SHAPEWORLD)[0] is SD15
    with pytest.raises(AssetError, match=r"there is no unet/config\.json"):
        read_architecture(tmp_path)


def unet_values(**changes: object) -> dict[str, object]:
    values = json.loads((SHAPEWORLD / "unet" / "config.json").read_text())
    return {**values, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"addition_embed_type": "text_time"},
            "not an SD 1.5 UNet: addition_embed_type is 'text_time', must be None",
        ),
        ({"up_block_types": ["UpBlock2D"]}, "not an SD 1.5 UNet: blocks"),
        (
            {"use_linear_projection": True, "cross_attention_dim": 1024},
            r"^unet/config\.json is of SD 2; not an SD 1\.5 UNet: use_linear",
        ),
        (
            {"addition_embed_type": "text_time", "cross_attention_dim": 2048},
            r"^unet/config\.json is of SDXL; ",
        ),
        ({"in_channels": 9}, "from words alone: in_channels is 9, out_channels is 4"),
        ({"in_channels": "4"}, "in_channels is '4'; expected a whole number"),
        ({"block_out_channels": []}, "block_out_channels is .* a list of whole"),
        ({"down_block_types": [1]}, "down_block_types is .* a list of texts"),
        ({"norm_eps": "small"}, "norm_eps is 'small'; expected a number"),
    ],
)
def test_another_unet_is_refused_by_its_family(
    changes: Mapping[str, object], message: str, tmp_path: Path
) -> None:
    (tmp_path / "unet").mkdir()
    config = tmp_path / "unet" / "config.json"
    config.write_text(json.dumps(unet_values(**changes)))
    with pytest.raises(CheckpointError, match=message):
        read_architecture(tmp_path)


def test_a_missing_key_is_named() -> None:
    values = unet_values()
    del values["cross_attention_dim"]
    with pytest.raises(
        CheckpointError, match=r"unet/config\.json has no cross_attention_dim"
    ):
        read_unet_config(values, SD15)


@pytest.mark.parametrize(
    ("changes", "heads"),
    [
        ({"attention_head_dim": 4, "num_attention_heads": None}, 4),
        ({"attention_head_dim": 4, "num_attention_heads": 2}, 2),
        ({"attention_head_dim": None}, 8),
    ],
)
def test_heads_under_either_key(changes: Mapping[str, object], heads: int) -> None:
    config = read_unet_config(unet_values(**changes), SD15)
    assert set(config.num_attention_heads) == {heads}
    assert len(config.num_attention_heads) == len(config.block_out_channels)


def test_heads_by_level() -> None:
    levels = len(read_unet_config(unet_values(), SD15).block_out_channels)
    heads = list(range(1, levels + 1))
    config = read_unet_config(unet_values(attention_head_dim=heads), SD15)
    assert config.num_attention_heads == tuple(heads)


def test_the_name_in_messages_is_the_familys() -> None:
    other = replace(SD15, name="SD 9")
    with pytest.raises(CheckpointError, match="not an SD 9 UNet"):
        read_unet_config(unet_values(act_fn="gelu"), other)


def test_the_published_config_gives_the_default_unet() -> None:
    published = {
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": [320, 640, 1280, 1280],
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "layers_per_block": 2,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
        "norm_num_groups": 32,
        "norm_eps": 1e-05,
        "sample_size": 64,
    }
    assert read_unet_config(published, SD15) == SD15.unet_config


def test_values_are_read_by_type() -> None:
    file = ConfigFile("vae/config.json", {"a": [1, 2], "b": ["x"], "c": 0.5})
    assert (file.integers("a"), file.strings("b")) == ((1, 2), ("x",))
    assert (file.number("c", 1.0), file.number("d", 1.0)) == (0.5, 1.0)
    with pytest.raises(CheckpointError, match=r"vae/config\.json: c is 0\.5"):
        file.integers("c")


def test_models_are_recognised_by_their_marks() -> None:
    for model in MODELS:
        for mark in model.single_file_marks:
            assert marked_model(["x", f"{mark}x"], DEFAULT.context_width) is model
        if model.context_width:
            assert marked_model(["x"], model.context_width) is model
        if model.text_width:
            assert model_of_text_width(model.text_width) is model
        if model.embedding_keys:
            assert model_of_embedding_keys(model.embedding_keys) is model
    assert marked_model(["x"]) is None
    assert model_of_single_file(["x"]) is DEFAULT
    assert marked_model(["x"], 3) is None
    assert others_with_latents(16) == "Flux or SD 3"
    assert others_with_latents(4) == others_with_latents(5) == ""
    assert model_of_text_width(3) is None
    assert model_of_embedding_keys(["clip_l"]) is None
