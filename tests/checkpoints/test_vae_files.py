import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from animatediff.checkpoints.detect import detect
from animatediff.checkpoints.lora_names import Shapes
from animatediff.checkpoints.vae import read_vae
from animatediff.errors import AssetError, CheckpointError
from animatediff.fetch.weight_file import WeightFile

Weights = dict[str, Tensor]
OLD_NAMES = {
    ".to_q.": ".query.",
    ".to_k.": ".key.",
    ".to_v.": ".value.",
    ".to_out.0.": ".proj_attn.",
}


def made(widths: tuple[int, ...], groups: int) -> AutoencoderKL:
    levels = len(widths)
    config: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": widths,
        "layers_per_block": 2,
        "norm_num_groups": groups,
    }
    return AutoencoderKL(**config)


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    torch.manual_seed(0)
    return made((8, 16, 16, 24), 8)


@pytest.fixture(scope="module")
def weights(vae: AutoencoderKL) -> Weights:
    return vae.state_dict()


def shapes_of(vae: AutoencoderKL) -> Shapes:
    """As the pipeline gives them, other models' among them."""
    return {("unet", "conv_in.weight"): torch.Size((1,))} | {
        ("vae", key): tensor.shape for key, tensor in vae.state_dict().items()
    }


def old_names(weights: Weights) -> Weights:
    def old(key: str) -> str:
        for new, name in OLD_NAMES.items():
            key = key.replace(new, name)
        return key

    return {old(key): tensor for key, tensor in weights.items()}


def ldm_key(key: str) -> str:
    """The first release's name for diffusers' ``key``, in a VAE of four levels."""
    key = re.sub(r"up_blocks\.(\d)", lambda match: f"up.{3 - int(match[1])}", key)
    key = re.sub(
        r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", key
    )
    for ours, theirs in {
        "down_blocks.": "down.",
        ".resnets.": ".block.",
        ".downsamplers.0.": ".downsample.",
        ".upsamplers.0.": ".upsample.",
        ".conv_shortcut.": ".nin_shortcut.",
        "conv_norm_out.": "norm_out.",
        "mid_block.attentions.0.": "mid.attn_1.",
        ".group_norm.": ".norm.",
        ".to_q.": ".q.",
        ".to_k.": ".k.",
        ".to_v.": ".v.",
        ".to_out.0.": ".proj_out.",
    }.items():
        key = key.replace(ours, theirs)
    return key


def as_convolutions(weights: Weights) -> Weights:
    """Attention's linear layers as convolutions over one point, as in the first
    release.
    """
    return {
        key: tensor[:, :, None, None]
        if ".attentions." in key and tensor.ndim == 2
        else tensor
        for key, tensor in weights.items()
    }


def ldm(weights: Weights, prefix: str = "") -> Weights:
    return {
        prefix + ldm_key(key): tensor
        for key, tensor in as_convolutions(weights).items()
    }


BESIDE = {
    "loss.logvar": torch.zeros(()),
    "loss.discriminator.main.0.weight": torch.zeros(2, 2),
    "model_ema.decay": torch.zeros(()),
    "model_ema.decoderconv_inweight": torch.zeros(1),
}
LAYOUTS: Mapping[str, Callable[[Weights], dict[str, Any]]] = {
    "diffusers": lambda w: w,
    "diffusers, old names": old_names,
    "diffusers, old names, convolutions": lambda w: old_names(as_convolutions(w)),
    "diffusers, wrapped": lambda w: {"state_dict": w},
    "LDM": ldm,
    "LDM, prefix": lambda w: ldm(w, "first_stage_model."),
    "LDM, trainer": lambda w: {"state_dict": {**ldm(w), **BESIDE}, "global_step": 7},
    "LDM, prefix, trainer": lambda w: {
        "state_dict": {**ldm(w, "first_stage_model."), **BESIDE}
    },
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_the_same_vae(
    layout: str,
    dtype: torch.dtype,
    vae: AutoencoderKL,
    weights: Weights,
    tmp_path: Path,
) -> None:
    content = LAYOUTS[layout](
        {key: tensor.to(dtype) for key, tensor in weights.items()}
    )
    torch.save(content, tmp_path / "x.vae.pt")
    read = read_vae(tmp_path / "x.vae.pt", shapes_of(vae), vae.config)
    assert (read.name, read.absent, read.unused) == ("x.vae.pt", (), ())
    assert read.tensors.keys() == {("vae", key) for key in weights}
    for key, tensor in weights.items():
        got = read.tensors["vae", key]
        assert got.dtype == dtype
        assert torch.equal(got, tensor.to(dtype)), key


def test_the_reference_file_has_these_names(golden: Path) -> None:
    """What ``ldm_key`` and ``old_names`` say of the layouts is not made up."""
    plain = load_file(golden / "common" / "vae.safetensors")
    new = {
        key.replace(old, name)
        for key in plain
        for name, old in OLD_NAMES.items()
        if old in key
    }
    new |= {key for key in plain if not any(old in key for old in OLD_NAMES.values())}
    single = load_file(golden / "loading" / "dreambooth_ldm.safetensors")
    assert {f"first_stage_model.{ldm_key(key)}" for key in new} == {
        k for k in single if k.startswith("first_stage")
    }
    assert old_names(dict.fromkeys(new, torch.zeros(1))).keys() == plain.keys()


@pytest.mark.parametrize("layout", ["diffusers", "LDM"])
def test_at_full_size(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        vae = made((128, 256, 512, 512), 32)
    raw = LAYOUTS[layout](vae.state_dict())
    monkeypatch.setattr("animatediff.checkpoints.vae.read_weights", lambda _file: raw)
    monkeypatch.setattr("animatediff.checkpoints.vae.check_finite", lambda *_: None)
    file = WeightFile("x.safetensors", Path("x.safetensors"), (0, 0))
    read = read_vae(file, shapes_of(vae), vae.config)
    assert (len(read.tensors), read.unused) == (248, ())
    assert detect(raw).kind == f"VAE, {layout} layout"


@pytest.mark.parametrize("layout", ["diffusers", "LDM"])
def test_left_over_keys_are_told(
    layout: str, vae: AutoencoderKL, weights: Weights, tmp_path: Path
) -> None:
    surplus = {"style.weight": torch.zeros(2, 2), "notes": torch.zeros(1)}
    save_file(
        {**LAYOUTS[layout](weights), **surplus, **BESIDE}, tmp_path / "x.safetensors"
    )
    read = read_vae(tmp_path / "x.safetensors", shapes_of(vae), vae.config)
    assert set(read.unused) == set(surplus)
    assert len(read.tensors) == len(weights)


@pytest.mark.parametrize(
    "layout", ["diffusers", "diffusers, old names", "LDM", "LDM, prefix"]
)
@pytest.mark.parametrize("harm", ["missing", "of another shape"])
@pytest.mark.parametrize(
    "end", ["norm1.weight", "k.bias", "downsample.conv.weight", "downsample.conv.bias"]
)
def test_a_vae_must_be_whole(
    layout: str,
    harm: str,
    end: str,
    vae: AutoencoderKL,
    weights: Weights,
    tmp_path: Path,
) -> None:
    content = LAYOUTS[layout](
        {
            key: tensor
            for key, tensor in weights.items()
            if not ldm_key(key).endswith(end)
        }
    )
    if harm == "of another shape":
        wrong = {key: torch.zeros(3) for key in weights if ldm_key(key).endswith(end)}
        content |= LAYOUTS[layout](wrong)
    save_file(content, tmp_path / "x.safetensors")
    with pytest.raises(
        CheckpointError, match=f"x.safetensors does not fit this model: .*{harm}"
    ):
        read_vae(tmp_path / "x.safetensors", shapes_of(vae), vae.config)


@pytest.mark.parametrize("layout", ["diffusers", "LDM"])
def test_attention_over_more_than_a_point_is_refused(
    layout: str, vae: AutoencoderKL, weights: Weights, tmp_path: Path
) -> None:
    key = "encoder.mid_block.attentions.0.to_q.weight"
    content = LAYOUTS[layout]({k: v for k, v in weights.items() if k != key})
    content[ldm_key(key) if layout == "LDM" else key] = torch.zeros(24, 24, 3, 3)
    save_file(content, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="of another shape"):
        read_vae(tmp_path / "x.safetensors", shapes_of(vae), vae.config)


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("common/unet2d.safetensors", "UNet, diffusers layout"),
        ("common/text_encoder.safetensors", "CLIP text encoder"),
        ("loading/mm_v2.ckpt", "motion module v2"),
        ("loading/kohya_lora.safetensors", "LoRA kohya"),
        ("loading/dreambooth_ldm.safetensors", r"single file \(LDM\) SD 1.5"),
    ],
)
def test_other_files_are_refused_by_what_they_are(
    file: str, kind: str, golden: Path, vae: AutoencoderKL
) -> None:
    with pytest.raises(CheckpointError, match=f"is not a VAE: it is {kind}"):
        read_vae(golden / file, shapes_of(vae), vae.config)


def test_an_unknown_file_and_none(tmp_path: Path, vae: AutoencoderKL) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="of no known kind"):
        read_vae(tmp_path / "x.safetensors", shapes_of(vae), vae.config)
    with pytest.raises(AssetError):
        read_vae(tmp_path / "absent.safetensors", shapes_of(vae), vae.config)
