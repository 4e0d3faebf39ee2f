"""Motion modules in diffusers' MotionAdapter layout, in which AnimateDiff-Lightning and
many others are published.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_motion_model import (
    AnimateDiffTransformer3D,
    MotionAdapter,
)
from safetensors.torch import save_file

from animatediff.adapters.motion import fit_motion_module, install_motion_module
from animatediff.checkpoints.detect import detect
from animatediff.checkpoints.motion_layout import published_key
from animatediff.checkpoints.motion_module import read_motion_module
from animatediff.config import ANIMATELCM, V1, V2, V3, MotionModuleConfig, UNet3DConfig
from animatediff.errors import CheckpointError
from animatediff.families import SD15
from animatediff.models.attention import attention_backend
from animatediff.models.motion_module import sinusoid_table
from animatediff.models.unet import UNet3DConditionModel
from tests.models.test_diffusers_peer import PerFrameGroupNorm

pytestmark = pytest.mark.slow

KEYS = Path(__file__).parents[1] / "data" / "keys"


def adapter(config: UNet3DConfig, motion: MotionModuleConfig) -> MotionAdapter:
    """diffusers' own, every weight of it random."""
    made = MotionAdapter(
        block_out_channels=config.block_out_channels,
        motion_layers_per_block=config.layers_per_block,
        motion_num_attention_heads=motion.num_attention_heads,
        motion_max_seq_length=motion.max_length,
        use_motion_mid_block=motion.use_mid_block,
    )
    generator = torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return made


def saved(adapter: MotionAdapter, folder: Path) -> Path:
    save_file(adapter.state_dict(), folder / "adapter.safetensors")
    return folder / "adapter.safetensors"


@pytest.mark.parametrize("motion", [V1, V2, V3, ANIMATELCM, replace(V2, max_length=16)])
def test_keys_and_version_are_exact(
    motion: MotionModuleConfig, tiny_config: UNet3DConfig, tmp_path: Path
) -> None:
    read = read_motion_module(saved(adapter(tiny_config, motion), tmp_path), SD15)
    with torch.device("meta"):
        expected = UNet3DConditionModel(tiny_config, motion).state_dict()
    assert read.config == motion
    assert {key: tensor.shape for key, tensor in read.tensors.items()} == {
        key: tensor.shape
        for key, tensor in expected.items()
        if ".motion_modules." in key
    }


@pytest.mark.parametrize("motion", [V2, V3], ids=["v2", "v3"])
@torch.inference_mode()
def test_every_slot_computes_what_diffusers_computes(
    motion: MotionModuleConfig, tiny_config: UNet3DConfig, tmp_path: Path
) -> None:
    theirs = adapter(tiny_config, motion)
    ours = UNet3DConditionModel(tiny_config).double()
    fitted = fit_motion_module(ours, read_motion_module(saved(theirs, tmp_path), SD15))
    install_motion_module(ours, fitted)
    assert fitted.warnings == ()
    slots = {
        place: m
        for place, m in theirs.double().named_modules()
        if isinstance(m, AnimateDiffTransformer3D)
    }
    assert (
        len(slots) == 4 * (2 * tiny_config.layers_per_block + 1) + motion.use_mid_block
    )
    generator = torch.Generator().manual_seed(2)
    for place, module in slots.items():
        module.norm = PerFrameGroupNorm(module.norm)  # type: ignore[assignment]
        channels = module.in_channels
        assert channels is not None
        x = torch.randn(2 * 5, channels, 3, 4, generator=generator, dtype=torch.float64)
        x = x.contiguous(memory_format=torch.channels_last)
        got = ours.get_submodule(place)(x, 5, attention_backend("sdpa").attend)
        expected = module(x, num_frames=5)
        assert (expected - x).abs().max() > 0.1
        assert (got - expected).abs().max() < 1e-9, place


@pytest.mark.parametrize(
    ("keys", "motion"),
    [("motion_module_v1", V1), ("motion_module_v2", V2), ("motion_module_v3", V3)],
)
def test_at_full_size_the_keys_become_the_published_ones(
    keys: str, motion: MotionModuleConfig
) -> None:
    with torch.device("meta"):
        default = MotionAdapter(
            motion_max_seq_length=motion.max_length,
            use_motion_mid_block=motion.use_mid_block,
        )
    weights = default.state_dict()
    renamed = {
        published_key(key): list(tensor.shape)
        for key, tensor in weights.items()
        if "pos_embed" not in key
    }
    assert renamed == json.loads((KEYS / f"{keys}.json").read_text())
    kind = detect(weights)
    assert kind.kind == "motion module, diffusers MotionAdapter layout"
    assert (kind.version, kind.parts) == (
        keys[-2:],
        (f"positional table of {motion.max_length}",),
    )


def test_published_keys_stay_as_they_are() -> None:
    for name in ("motion_module_v2", "motion_lora_v2_rank64", "unet_spatial_sd15"):
        keys = list(json.loads((KEYS / f"{name}.json").read_text()))
        assert [published_key(key) for key in keys] == keys


def test_the_file_s_table_is_the_one_that_is_computed(
    tiny_config: UNet3DConfig,
) -> None:
    tables = {}
    for length in (24, 32):
        state = adapter(tiny_config, replace(V2, max_length=length)).state_dict()
        tables[length] = {
            key: tensor for key, tensor in state.items() if key.endswith("pos_embed.pe")
        }
        for table in tables[length].values():
            assert torch.equal(table, sinusoid_table(length, table.shape[-1]))
    assert tables[24].keys() == tables[32].keys()
    assert all(
        torch.equal(table, tables[32][key][:, :24]) for key, table in tables[24].items()
    )


def test_a_weight_under_both_names_is_refused(
    tiny_config: UNet3DConfig, tmp_path: Path
) -> None:
    state = adapter(tiny_config, V3).state_dict()
    key = "down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q.weight"
    save_file(
        {**state, published_key(key): state[key].clone()}, tmp_path / "x.safetensors"
    )
    with pytest.raises(CheckpointError, match="1 weights twice"):
        read_motion_module(tmp_path / "x.safetensors", SD15)


def test_an_sdxl_module_is_named(tiny_config: UNet3DConfig, tmp_path: Path) -> None:
    sdxl = adapter(replace(tiny_config, block_out_channels=(32, 64, 128)), V3)
    with pytest.raises(CheckpointError, match="for SDXL"):
        read_motion_module(saved(sdxl, tmp_path), SD15)
    result = detect(sdxl.state_dict())
    assert (result.kind, result.version) == (
        "motion module, diffusers MotionAdapter layout",
        "SDXL",
    )
