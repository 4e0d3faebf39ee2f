import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from animatediff.checkpoints.lora import read_lora
from animatediff.checkpoints.lora_names import Shapes
from animatediff.config import V2, V3
from animatediff.errors import AssetError, CheckpointError
from animatediff.families import SD15
from animatediff.fetch.weight_file import WeightFile
from animatediff.models.unet import UNet3DConditionModel

KEYS = Path(__file__).parents[1] / "data" / "keys"
Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "down_blocks.0.resnets.0.conv1"
SHAPES: Shapes = {
    ("unet", f"{Q}.weight"): torch.Size((8, 8)),
    ("unet", f"{CONV}.weight"): torch.Size((16, 8, 3, 3)),
    ("text_encoder", "encoder.layers.0.self_attn.q_proj.weight"): torch.Size((6, 6)),
}


def saved(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, folder / "x.safetensors")
    return folder / "x.safetensors"


def pair(
    stem: str, down: str, up: str, c_out: int = 8, c_in: int = 8, rank: int = 2
) -> dict[str, torch.Tensor]:
    return {
        f"{stem}{down}": torch.randn(rank, c_in),
        f"{stem}{up}": torch.randn(c_out, rank),
    }


STEM = "lora_unet_" + Q.replace(".", "_")
KOHYA = pair(STEM, ".lora_down.weight", ".lora_up.weight")


def test_locon_and_alpha(tmp_path: Path) -> None:
    stem = "lora_unet_" + CONV.replace(".", "_")
    tensors = {
        f"{stem}.lora_down.weight": torch.randn(4, 8, 3, 3),
        f"{stem}.lora_up.weight": torch.randn(16, 4, 1, 1),
        f"{stem}.alpha": torch.tensor(1.0),
    }
    path = saved(tmp_path, tensors)
    (change,) = read_lora(path, SD15, SHAPES).changes
    assert change.scale == 0.25
    (change,) = read_lora(path, SD15, SHAPES, ignore_file_alpha=True).changes
    assert change.scale == 1


def test_left_over_keys_are_told(tmp_path: Path) -> None:
    surplus = {
        "lora_unet_no_such_layer.lora_down.weight": torch.zeros(1, 1),
        "note": torch.zeros(1),
    }
    lora = read_lora(saved(tmp_path, {**KOHYA, **surplus}), SD15, SHAPES)
    assert len(lora.changes) == 1
    assert set(lora.unmatched) == set(surplus)


BAD = {
    "fits no layer": pair(
        "lora_unet_elsewhere", ".lora_down.weight", ".lora_up.weight"
    ),
    "not a LoRA file": {"conv_in.weight": torch.zeros(1)},
    "does not fit this model": pair(
        f"unet.{Q}", ".lora_A.weight", ".lora_B.weight", c_in=9
    ),
    "it is single file": {
        **KOHYA,
        "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1),
    },
    "it is SparseCtrl": {
        **KOHYA,
        "controlnet_cond_embedding.conv_in.weight": torch.zeros(1),
        "down_blocks.0.motion_modules.0.x.weight": torch.zeros(1),
    },
    "needs down and up": {f"unet.{Q}.lora_A.weight": torch.zeros(2, 8)},
    "an alpha of 2 numbers": {**KOHYA, f"{STEM}.alpha": torch.zeros(2)},
    "needs hada_w1_a and hada_w1_b": {f"{STEM}.hada_w1_a": torch.zeros(8, 2)},
    "has only alpha": {**pair(f"unet.{CONV}", ".lora_A", ".lora_B", 16, 72)}
    | {f"{STEM}.alpha": torch.ones(1)},
    "has only down, hada_w1_a, up": {**KOHYA, f"{STEM}.hada_w1_a": torch.zeros(8, 2)},
    "has only magnitude": {**KOHYA, f"unet.{CONV}.dora_scale": torch.zeros(16)},
    "needs ia3 and on_input": {f"{STEM}.on_input": torch.zeros(1)},
    "rank 0": pair(STEM, ".lora_down.weight", ".lora_up.weight", rank=0),
    "of the change of its layer": {**KOHYA, f"{STEM}.scalar": torch.ones(1)},
    "twice, by .*lora_A.one.weight and .*lora_A.two.weight": {
        f"unet.{Q}.lora_{half}.{adapter}.weight": torch.zeros(8, 8)
        for half in "AB"
        for adapter in ("one", "two")
    },
    "twice, by down_blocks.*lora_A.weight and lora_unet_.*lora_down.weight": {
        **KOHYA,
        **pair(Q, ".lora_A.weight", ".lora_B.weight"),
    },
}


@pytest.mark.parametrize("message", BAD)
def test_refused(message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_lora(saved(tmp_path, BAD[message]), SD15, SHAPES)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize(
    "content", [b"", b"words", b"\x80\x02c__builtin__\neval\n(X\x01\x00\x00\x001tR."]
)
def test_files_that_hold_no_weights(
    suffix: str, content: bytes, tmp_path: Path
) -> None:
    (tmp_path / f"x{suffix}").write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_lora(tmp_path / f"x{suffix}", SD15, SHAPES)
    with pytest.raises(AssetError):
        read_lora(tmp_path / f"absent{suffix}", SD15, SHAPES)


@pytest.mark.parametrize("name", ["motion_lora_v2_rank64", "v3_adapter_rank128"])
def test_published_keys_all_fit_at_full_size(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.device("meta"):
        unet = UNet3DConditionModel(SD15.unet_config, V2 if "v2" in name else V3)
    raw = {
        key: torch.zeros(1).expand(shape)
        for key, shape in json.loads((KEYS / f"{name}.json").read_text()).items()
    }
    monkeypatch.setattr("animatediff.checkpoints.lora.read_weights", lambda _file: raw)
    lora = read_lora(
        WeightFile(name, Path(name), (0, 0)),
        SD15,
        {("unet", key): tensor.shape for key, tensor in unet.state_dict().items()},
    )
    assert (len(lora.changes) * 2, lora.unmatched) == (len(raw), ())


def test_v2_motion_lora_on_v3_is_refused(tiny_config: object, golden: Path) -> None:
    with torch.device("meta"):
        unet = UNet3DConditionModel(tiny_config, V3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(CheckpointError, match="MotionLoRA for a v2"):
        read_lora(
            golden / "loading" / "motion_lora_A.ckpt",
            SD15,
            {("unet", key): tensor.shape for key, tensor in unet.state_dict().items()},
        )


def test_reference_file_is_whole(golden: Path) -> None:
    assert len(load_file(golden / "loading" / "kohya_lora.safetensors")) == 120
