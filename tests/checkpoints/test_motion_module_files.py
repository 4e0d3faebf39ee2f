from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from animatediff.adapters.motion import (
    FittedMotion,
    fit_motion_module,
    install_motion_module,
)
from animatediff.checkpoints.detect import detect
from animatediff.checkpoints.motion_module import (
    MotionModuleWeights,
    read_motion_module,
)
from animatediff.config import ANIMATELCM, V1, V2, V3, UNet3DConfig
from animatediff.errors import AssetError, CheckpointError
from animatediff.families import SD15
from animatediff.models.motion_module import PositionalEncoding, sinusoid_table
from animatediff.models.unet import UNet3DConditionModel

pytestmark = pytest.mark.slow

MODULE = "down_blocks.0.motion_modules.0.temporal_transformer"
TABLE = f"{MODULE}.transformer_blocks.0.attention_blocks.0.pos_encoder.pe"


@pytest.fixture
def motion(tiny_weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        k: t
        for k, t in tiny_weights.items()
        if ".motion_modules." in k and not k.startswith("mid_block.")
    }


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: w,
        lambda w: {"epoch": 1, "state_dict": w},
        lambda w: {f"module.{k}": t for k, t in w.items()},
        lambda w: {
            **w,
            "animatediff_config": {"a": 1},
            "conv_in.weight": torch.zeros(1),
        },
        lambda w: {**w, TABLE: torch.zeros(1, 32, 32)},
    ],
    ids=["bare", "wrapped", "trainer", "with others", "with table"],
)
def test_every_published_layout(
    wrap, motion: dict[str, Tensor], tmp_path: Path
) -> None:
    read = read_motion_module(
        saved(wrap(motion), tmp_path / "mm.ckpt"), SD15, version="v3"
    )
    assert read.config == V3
    assert read.tensors.keys() == motion.keys()
    assert all(torch.equal(read.tensors[key], motion[key]) for key in motion)


def test_weights_of_other_layers_are_told(
    motion: dict[str, Tensor], tmp_path: Path
) -> None:
    others = {"conv_in.weight": torch.zeros(4, 9, 3, 3), "conv_in.bias": torch.zeros(4)}
    noise = {"betas": torch.zeros(4), TABLE: torch.zeros(1, 32, 32)}
    path = saved({**motion, **others, **noise}, tmp_path / "mm.ckpt")
    read = read_motion_module(path, SD15, version="v3")
    assert read.unused == ("conv_in.weight", "conv_in.bias")
    (warning,) = FittedMotion(read).warnings
    assert warning == (
        "mm.ckpt: 2 keys belong to no motion module and are not used"
        " (conv_in.weight, conv_in.bias)"
    )


def test_version_is_recognised(
    motion: dict[str, Tensor], tiny_weights: dict[str, Tensor], tmp_path: Path
) -> None:
    v2 = {k: t for k, t in tiny_weights.items() if ".motion_modules." in k}
    assert read_motion_module(saved(v2, tmp_path / "a.ckpt"), SD15).config == V2
    for length, config in ((24, V1), (32, V3), (64, replace(V3, max_length=64))):
        content = {**motion, TABLE: torch.zeros(1, length, 32)}
        assert (
            read_motion_module(saved(content, tmp_path / "b.ckpt"), SD15).config
            == config
        )
    with pytest.raises(CheckpointError, match="v1 or v3"):
        read_motion_module(saved(motion, tmp_path / "c.ckpt"), SD15)


def test_animatelcm_is_v2_with_a_longer_table(
    tiny_weights: dict[str, Tensor], tmp_path: Path
) -> None:
    content = {k: t for k, t in tiny_weights.items() if ".motion_modules." in k}
    path = saved(content, tmp_path / "without_table.ckpt")
    assert read_motion_module(path, SD15).config == V2
    assert (
        read_motion_module(path, SD15, version="animatelcm").config
        == ANIMATELCM
        == replace(V2, max_length=64)
    )
    path = saved(
        {**content, TABLE: torch.zeros(1, 64, 32)}, tmp_path / "with_table.ckpt"
    )
    assert read_motion_module(path, SD15).config == ANIMATELCM


@pytest.mark.parametrize("version", ["v2", "animatelcm", None])
@pytest.mark.parametrize("length", [16, 24, 32, 64])
def test_the_file_s_table_decides_the_frames(
    version: str | None, length: int, tiny_weights: dict[str, Tensor], tmp_path: Path
) -> None:
    content = {k: t for k, t in tiny_weights.items() if ".motion_modules." in k}
    path = saved({**content, TABLE: torch.zeros(1, length, 32)}, tmp_path / "x.ckpt")
    assert read_motion_module(path, SD15, version=version).config == replace(
        V2, max_length=length
    )


def test_what_stands_in_the_file_s_table_does_not_matter(
    motion: dict[str, Tensor], tiny_config: UNet3DConfig, tmp_path: Path
) -> None:
    unet = UNet3DConditionModel(tiny_config)
    path = saved({**motion, TABLE: torch.zeros(1, 40, 32)}, tmp_path / "x.ckpt")
    install_motion_module(unet, fit_motion_module(unet, read_motion_module(path, SD15)))
    tables = [
        module.pe for module in unet.modules() if isinstance(module, PositionalEncoding)
    ]
    assert tables
    assert all(
        torch.equal(table, sinusoid_table(40, table.shape[-1])) for table in tables
    )


@pytest.mark.parametrize(
    "tables",
    [
        {
            TABLE: torch.zeros(1, 24, 32),
            TABLE.replace("blocks.0.m", "blocks.1.m"): torch.zeros(1, 32, 32),
        },
        {TABLE: torch.zeros(32, 32)},
        {TABLE: torch.zeros(2, 32, 32)},
    ],
    ids=["two lengths", "two axes", "two tables in one"],
)
def test_odd_tables_are_refused(
    tables: dict[str, Tensor], motion: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(
        CheckpointError, match="positional tables of several or odd shapes"
    ):
        read_motion_module(saved({**motion, **tables}, tmp_path / "x.ckpt"), SD15)


# the blocks of SDXL's UNet, but not its widths
THREE_LEVELS = tuple(f"{side}_blocks.{i}." for side in ("down", "up") for i in range(3))


@pytest.mark.parametrize(
    ("blocks", "whole"),
    [
        (("down_blocks.3.",), False),
        (THREE_LEVELS, False),
        (("down_blocks.", "up_blocks."), True),
    ],
)
def test_a_part_is_what_lacks_a_level(
    blocks: tuple[str, ...], whole: bool, motion: dict[str, Tensor], tmp_path: Path
) -> None:
    """Reader and detector agree: only a whole module can be told not to be v2."""
    content = {key: tensor for key, tensor in motion.items() if key.startswith(blocks)}
    path = saved(content, tmp_path / "x.ckpt")
    assert detect(content).kind == (
        "motion module" if whole else "part of a motion module"
    )
    if whole:
        with pytest.raises(CheckpointError, match="no mid-block"):
            read_motion_module(path, SD15, version="v2")
    else:
        assert (
            read_motion_module(path, SD15, version="v2").tensors.keys()
            == content.keys()
        )


@pytest.mark.parametrize(
    ("version", "match"),
    [
        ("v2", "no mid-block"),
        ("animatelcm", "no mid-block"),
        ("v9", "no motion-module version"),
    ],
)
def test_version_that_the_file_contradicts(
    version: str, match: str, motion: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=match):
        read_motion_module(saved(motion, tmp_path / "mm.ckpt"), SD15, version=version)


def test_missing_file_and_file_without_motion(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="no weight file"):
        read_motion_module(tmp_path / "none.ckpt", SD15)
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="no motion modules"):
        read_motion_module(tmp_path / "a.safetensors", SD15)


def test_wrong_weights_leave_the_model_untouched(
    motion: dict[str, Tensor], tiny_config: UNet3DConfig
) -> None:
    unet = UNet3DConditionModel(tiny_config)
    install_motion_module(
        unet, fit_motion_module(unet, MotionModuleWeights("first", V3, motion))
    )
    before = {key: tensor.clone() for key, tensor in unet.state_dict().items()}
    some = next(iter(motion))
    lacking = {key: tensor for key, tensor in motion.items() if key != some}
    other = {**motion, some: torch.zeros(1)}
    more = {**motion, "x": motion[some]}
    for broken, match in (
        (lacking, "1 missing"),
        (other, "1 of another shape"),
        (more, "1 unexpected"),
    ):
        with pytest.raises(CheckpointError, match=match):
            install_motion_module(
                unet, fit_motion_module(unet, MotionModuleWeights("broken", V3, broken))
            )
    after = unet.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_removed_module_leaves_the_image_model(
    motion: dict[str, Tensor], tiny_config: UNet3DConfig
) -> None:
    unet = UNet3DConditionModel(tiny_config)
    before = {key: tensor.clone() for key, tensor in unet.state_dict().items()}
    install_motion_module(
        unet, fit_motion_module(unet, MotionModuleWeights("m", V1, motion))
    )
    assert unet.cross_frame_norm
    unet.set_motion(None)
    assert not unet.cross_frame_norm
    assert unet.state_dict().keys() == before.keys()
    assert all(
        torch.equal(tensor, before[key]) for key, tensor in unet.state_dict().items()
    )
