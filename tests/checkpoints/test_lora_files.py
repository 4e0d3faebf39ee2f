import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from animatediff.checkpoints.lora import Shapes, read_lora
from animatediff.config import V2, V3
from animatediff.errors import AssetError, CheckpointError
from animatediff.families import SD15
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
    stem: str, down: str, up: str, c_out: int = 8, c_in: int = 8
) -> dict[str, torch.Tensor]:
    return {f"{stem}{down}": torch.randn(2, c_in), f"{stem}{up}": torch.randn(c_out, 2)}


LAYOUTS = {
    "kohya": pair(
        "lora_unet_" + Q.replace(".", "_"), ".lora_down.weight", ".lora_up.weight"
    ),
    "peft": pair(f"unet.{Q}", ".lora_A.weight", ".lora_B.weight"),
    "peft with an adapter's name": pair(
        f"base_model.model.unet.{Q}", ".lora_A.default.weight", ".lora_B.default.weight"
    ),
    "diffusers": pair(f"unet.{Q}", ".lora.down.weight", ".lora.up.weight"),
    "processor": pair(
        Q.replace(".to_q", ".processor.to_q_lora"), ".down.weight", ".up.weight"
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_name_the_same_weight(layout: str, tmp_path: Path) -> None:
    lora = read_lora(saved(tmp_path, LAYOUTS[layout]), SD15, SHAPES)
    assert [layer.address for layer in lora.layers] == [("unet", f"{Q}.weight")]
    assert torch.equal(lora.layers[0].down, next(iter(LAYOUTS[layout].values())))
    assert lora.layers[0].scale(ignore_file_alpha=False) == 1
    assert lora.unmatched == ()


@pytest.mark.parametrize(
    "stem",
    [
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj",
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
    ],
)
def test_text_encoder(stem: str, tmp_path: Path) -> None:
    ends = (
        (".lora_down.weight", ".lora_up.weight")
        if stem.startswith("lora_te")
        else (".lora_A.weight", ".lora_B.weight")
    )
    (layer,) = read_lora(saved(tmp_path, pair(stem, *ends, 6, 6)), SD15, SHAPES).layers
    assert layer.address == ("text_encoder", "encoder.layers.0.self_attn.q_proj.weight")


def test_locon_and_alpha(tmp_path: Path) -> None:
    stem = "lora_unet_" + CONV.replace(".", "_")
    tensors = {
        f"{stem}.lora_down.weight": torch.randn(4, 8, 3, 3),
        f"{stem}.lora_up.weight": torch.randn(16, 4, 1, 1),
        f"{stem}.alpha": torch.tensor(1.0),
    }
    (layer,) = read_lora(saved(tmp_path, tensors), SD15, SHAPES).layers
    assert layer.scale(ignore_file_alpha=False) == 0.25
    assert layer.scale(ignore_file_alpha=True) == 1


def test_left_over_keys_are_told(tmp_path: Path) -> None:
    surplus = {
        "lora_unet_no_such_layer.lora_down.weight": torch.zeros(1, 1),
        "note": torch.zeros(1),
    }
    lora = read_lora(saved(tmp_path, {**LAYOUTS["kohya"], **surplus}), SD15, SHAPES)
    assert len(lora.layers) == 1
    assert set(lora.unmatched) == set(surplus)


BAD = {
    "fits no layer": pair(
        "lora_unet_elsewhere", ".lora_down.weight", ".lora_up.weight"
    ),
    "not a LoRA file": {"conv_in.weight": torch.zeros(1)},
    "does not fit this model": pair(
        f"unet.{Q}", ".lora_A.weight", ".lora_B.weight", c_in=9
    ),
    "needs down and up": {f"unet.{Q}.lora_A.weight": torch.zeros(2, 8)},
    "DoRA": {**LAYOUTS["kohya"], "lora_unet_x.dora_scale": torch.zeros(1)},
    "LoHa": {"lora_unet_x.hada_w1_a": torch.zeros(1)},
    "an alpha of 2 numbers": {
        **LAYOUTS["kohya"],
        "lora_unet_" + Q.replace(".", "_") + ".alpha": torch.zeros(2),
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
            key: torch.empty(shape)
            for key, shape in json.loads((KEYS / f"{name}.json").read_text()).items()
        }
    monkeypatch.setattr("animatediff.checkpoints.lora.read_weights", lambda _path: raw)
    lora = read_lora(
        name,
        SD15,
        {("unet", key): tensor.shape for key, tensor in unet.state_dict().items()},
    )
    assert (len(lora.layers) * 2, lora.unmatched) == (len(raw), ())


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
