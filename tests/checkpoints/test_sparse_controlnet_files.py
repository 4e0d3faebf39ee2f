from pathlib import Path

import pytest
import torch
from diffusers.models.controlnets.controlnet_sparsectrl import SparseControlNetModel
from safetensors.torch import load_file, save_file

from animatediff.checkpoints.sparse_controlnet import read_sparse_controlnet
from animatediff.config import UNet3DConfig
from animatediff.controls.sparsectrl import build_sparse_controlnet
from animatediff.errors import CheckpointError
from animatediff.models.unet import UNet3DConditionModel

KINDS = ("sparsectrl_rgb", "sparsectrl_scribble")


@pytest.fixture
def unet(tiny_config: UNet3DConfig) -> UNet3DConditionModel:
    return UNet3DConditionModel(tiny_config)


@pytest.mark.parametrize("kind", KINDS)
def test_the_published_layout_is_the_same_branch(
    kind: str, golden: Path, tmp_path: Path, unet: UNet3DConditionModel
) -> None:
    plain = golden / kind / "weights.safetensors"
    weights = load_file(plain)
    key = next(key for key in weights if key.endswith("attention_blocks.0.to_q.weight"))
    table = key.replace("to_q.weight", "pos_encoder.pe")
    published = {
        f"module.{key}": tensor
        for key, tensor in {**weights, table: torch.zeros(1, 48, 32)}.items()
    }
    torch.save(
        {"controlnet": {**published, "animatediff_config": {"a": 1}}, "epoch": 3},
        tmp_path / "x.ckpt",
    )

    ours = build_sparse_controlnet(unet, read_sparse_controlnet(plain))
    theirs = build_sparse_controlnet(unet, read_sparse_controlnet(tmp_path / "x.ckpt"))
    assert ours.control.takes_latents == (kind == "sparsectrl_rgb")
    assert (ours.control.motion.max_length, theirs.control.motion.max_length) == (
        32,
        48,
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_layout_fits_key_by_key(
    kind: str, tmp_path: Path, unet: UNet3DConditionModel, tiny_config: UNet3DConfig
) -> None:
    takes_latents = kind == "sparsectrl_rgb"
    theirs = SparseControlNetModel(
        conditioning_channels=4 if takes_latents else 3,
        use_simplified_condition_embedding=takes_latents,
        block_out_channels=tiny_config.block_out_channels,
        layers_per_block=tiny_config.layers_per_block,
        cross_attention_dim=tiny_config.cross_attention_dim,
        attention_head_dim=tiny_config.num_attention_heads[0],
        norm_num_groups=tiny_config.norm_num_groups,
        motion_max_seq_length=24,
    )
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter)
    save_file(theirs.state_dict(), tmp_path / "x.safetensors")
    ours = build_sparse_controlnet(
        unet, read_sparse_controlnet(tmp_path / "x.safetensors")
    )
    assert ours.control.takes_latents == takes_latents
    assert ours.control.motion.max_length == 24
    place = "down_blocks.0.motion_modules.0"
    block = theirs.get_submodule(place).transformer_blocks[0]  # type: ignore[index]
    mine = ours.get_submodule(f"{place}.temporal_transformer.transformer_blocks.0")
    assert torch.equal(mine.attention_blocks[0].to_q.weight, block.attn1.to_q.weight)  # type: ignore[union-attr]
    assert torch.equal(mine.ff_norm.weight, block.norm3.weight)  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("harm", ["missing", "unexpected", "shape"])
def test_loading_is_strict(
    kind: str, harm: str, golden: Path, tmp_path: Path, unet: UNet3DConditionModel
) -> None:
    weights = load_file(golden / kind / "weights.safetensors")
    if harm == "unexpected":
        weights["surplus.weight"] = torch.zeros(1)
    elif harm == "missing":
        del weights["controlnet_mid_block.bias"]
    else:
        weights["controlnet_mid_block.bias"] = torch.zeros(1)
    save_file(weights, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=harm):
        build_sparse_controlnet(
            unet, read_sparse_controlnet(tmp_path / "x.safetensors")
        )


@pytest.mark.parametrize("other", ["motion", "unet2d", "vae"])
def test_other_files_are_refused(other: str, golden: Path) -> None:
    with pytest.raises(CheckpointError, match="not a SparseCtrl branch"):
        read_sparse_controlnet(golden / "common" / f"{other}.safetensors")
