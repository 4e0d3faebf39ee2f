from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from animatediff.adapters.motion import install_motion_module, remove_motion_module
from animatediff.checkpoints.files import read_weights
from animatediff.checkpoints.motion_module import MotionModuleWeights, read_motion_module
from animatediff.config import V1, V2, V3, UNet3DConfig
from animatediff.errors import AssetError, CheckpointError
from animatediff.models.unet import UNet3DConditionModel

TABLE = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.pos_encoder.pe"


@pytest.fixture
def motion(tiny_weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: t for k, t in tiny_weights.items() if ".motion_modules." in k and not k.startswith("mid_block.")}


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: w,
        lambda w: {"epoch": 1, "state_dict": w},
        lambda w: {f"module.{k}": t for k, t in w.items()},
        lambda w: {**w, "animatediff_config": {"a": 1}, "conv_in.weight": torch.zeros(1)},
        lambda w: {**w, TABLE: torch.zeros(1, 32, 32)},
    ],
    ids=["bare", "wrapped", "trainer", "with others", "with table"],
)
def test_every_published_layout(wrap, motion: dict[str, Tensor], tmp_path: Path) -> None:
    read = read_motion_module(saved(wrap(motion), tmp_path / "mm.ckpt"), version="v3")
    assert read.config == V3
    assert read.tensors.keys() == motion.keys()
    assert all(torch.equal(read.tensors[key], motion[key]) for key in motion)


def test_version_is_recognised(motion: dict[str, Tensor], tiny_weights: dict[str, Tensor], tmp_path: Path) -> None:
    v2 = {k: t for k, t in tiny_weights.items() if ".motion_modules." in k}
    assert read_motion_module(saved(v2, tmp_path / "a.ckpt")).config == V2
    for length, config in ((24, V1), (32, V3), (64, replace(V3, max_length=64))):
        content = {**motion, TABLE: torch.zeros(1, length, 32)}
        assert read_motion_module(saved(content, tmp_path / "b.ckpt")).config == config
    with pytest.raises(CheckpointError, match="v1 or v3"):
        read_motion_module(saved(motion, tmp_path / "c.ckpt"))


@pytest.mark.parametrize(("version", "match"), [("v2", "no mid-block"), ("v9", "no motion-module version")])
def test_version_that_the_file_contradicts(version: str, match: str, motion: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=match):
        read_motion_module(saved(motion, tmp_path / "mm.ckpt"), version=version)


class Evil:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("was-run"),))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.ckpt", b"not a pickle"),
        ("a.safetensors", b"not safetensors"),
        ("a.txt", b""),
        ("a.ckpt", b""),
    ],
)
def test_damaged_files_are_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name) as caught:
        read_weights(tmp_path / name)
    assert str(tmp_path) not in caught.value.message


def test_pickles_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError):
        read_weights(saved({"a": Evil()}, tmp_path / "evil.ckpt"))
    assert not (tmp_path / "was-run").exists()


def test_missing_file_and_file_without_motion(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="no weight file"):
        read_motion_module(tmp_path / "none.ckpt")
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="no motion modules"):
        read_motion_module(tmp_path / "a.safetensors")


def test_wrong_weights_leave_the_model_untouched(motion: dict[str, Tensor], tiny_config: UNet3DConfig) -> None:
    unet = UNet3DConditionModel(tiny_config)
    install_motion_module(unet, MotionModuleWeights("first", V3, motion))
    before = {key: tensor.clone() for key, tensor in unet.state_dict().items()}
    some = next(iter(motion))
    lacking = {key: tensor for key, tensor in motion.items() if key != some}
    other = {**motion, some: torch.zeros(1)}
    more = {**motion, "x": motion[some]}
    for broken, match in ((lacking, "1 missing"), (other, "1 of another shape"), (more, "1 unexpected")):
        with pytest.raises(CheckpointError, match=match):
            install_motion_module(unet, MotionModuleWeights("broken", V3, broken))
    after = unet.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_removed_module_leaves_the_image_model(motion: dict[str, Tensor], tiny_config: UNet3DConfig) -> None:
    unet = UNet3DConditionModel(tiny_config)
    before = {key: tensor.clone() for key, tensor in unet.state_dict().items()}
    install_motion_module(unet, MotionModuleWeights("m", V1, motion))
    assert unet.cross_frame_norm
    remove_motion_module(unet)
    assert not unet.cross_frame_norm
    assert unet.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[key]) for key, tensor in unet.state_dict().items())
