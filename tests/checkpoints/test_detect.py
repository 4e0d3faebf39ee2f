import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from animatediff.checkpoints.detect import detect
from animatediff.checkpoints.files import read_weights
from animatediff.checkpoints.lora import read_lora
from animatediff.checkpoints.motion_module import read_motion_module
from animatediff.checkpoints.sparse_controlnet import read_sparse_controlnet
from animatediff.cli.inspect import main
from animatediff.errors import CheckpointError
from animatediff.families import SD15

DATA = Path(__file__).parents[1] / "data"
SHAPEWORLD = Path(__file__).parents[2] / "models" / "shapeworld"


@pytest.mark.parametrize(
    ("file", "kind", "version"),
    [
        ("common/unet2d.safetensors", "UNet, diffusers layout", ""),
        ("common/vae.safetensors", "VAE, diffusers layout", ""),
        ("common/text_encoder.safetensors", "CLIP text encoder", ""),
        ("common/motion.safetensors", "motion module", "v2"),
        ("sparsectrl_rgb/weights.safetensors", "SparseCtrl", "rgb"),
        ("sparsectrl_scribble/weights.safetensors", "SparseCtrl", "scribble"),
        ("loading/mm_v2.ckpt", "motion module", "v2"),
        ("loading/mm_v2_wrapped.ckpt", "part of a motion module", ""),
        ("loading/dreambooth_ldm.safetensors", "single file (LDM)", "SD 1.5"),
        ("loading/kohya_lora.safetensors", "LoRA", "kohya"),
        ("loading/v3_adapter.ckpt", "domain adapter", ""),
        ("loading/motion_lora_A.ckpt", "MotionLoRA", "v2"),
        ("loading/motion_lora_B_wrapped.ckpt", "MotionLoRA", "v2"),
    ],
)
def test_reference_files(file: str, kind: str, version: str) -> None:
    result = detect(read_weights(DATA / "golden" / file))
    assert (result.kind, result.version) == (kind, version)


@pytest.mark.parametrize(
    ("keys", "kind", "version", "ranks"),
    [
        ("motion_module_v1", "motion module", "v1 or v3", ()),
        ("motion_module_v2", "motion module", "v2", ()),
        ("motion_module_v3", "motion module", "v1 or v3", ()),
        ("motion_lora_v2_rank64", "MotionLoRA", "v2", (64,)),
        ("v3_adapter_rank128", "domain adapter", "", (128,)),
        ("sparsectrl_rgb", "SparseCtrl", "rgb", ()),
        ("sparsectrl_scribble", "SparseCtrl", "scribble", ()),
        ("unet_spatial_sd15", "UNet, diffusers layout", "", ()),
    ],
)
def test_published_keys(
    keys: str, kind: str, version: str, ranks: tuple[int, ...]
) -> None:
    shapes = json.loads((DATA / "keys" / f"{keys}.json").read_text())
    result = detect(
        {
            f"module.{key}": torch.empty(shape, device="meta")
            for key, shape in shapes.items()
        }
    )
    assert (result.kind, result.version, result.ranks) == (kind, version, ranks)


@pytest.mark.parametrize(("length", "version"), [(24, "v1"), (32, "v3"), (64, "v3")])
def test_the_table_tells_v1_from_v3(length: int, version: str) -> None:
    shapes = json.loads((DATA / "keys" / "motion_module_v3.json").read_text())
    weights = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    key = next(iter(shapes)).partition(".temporal_transformer.")[0]
    weights[
        f"{key}.temporal_transformer.transformer_blocks.0.attention_blocks.0.pos_encoder.pe"
    ] = torch.empty(1, length, 320, device="meta")
    result = detect(weights)
    assert (result.version, result.parts) == (
        version,
        (f"positional table of {length}",),
    )


@pytest.mark.parametrize(
    ("length", "version"), [(16, "v2"), (32, "v2"), (64, "animatelcm")]
)
def test_the_table_tells_v2_from_animatelcm(length: int, version: str) -> None:
    shapes = json.loads((DATA / "keys" / "motion_module_v2.json").read_text())
    weights = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    block = "mid_block.motion_modules.0.temporal_transformer.transformer_blocks.0"
    weights[f"{block}.attention_blocks.1.pos_encoder.pe"] = torch.empty(
        1, length, 1280, device="meta"
    )
    assert detect(weights).version == version


def test_the_width_of_a_lone_tensor_makes_it_a_textual_inversion() -> None:
    assert detect({"<cat>": torch.zeros(768)}).version == "SD 1.5"
    assert detect({"<cat>": torch.zeros(2, 1024)}).version == "SD 2"
    for other in ({"<cat>": torch.zeros(2, 767)}, {"<cat>": torch.zeros(1, 2, 768)}):
        with pytest.raises(CheckpointError, match="none of the known"):
            detect(other)


@pytest.mark.parametrize(
    ("keys", "kind", "version"),
    [
        (
            ["model.diffusion_model.x", "conditioner.embedders.0.x"],
            "single file (LDM)",
            "SDXL",
        ),
        (
            ["model.diffusion_model.x", "cond_stage_model.model.x"],
            "single file (LDM)",
            "SD 2",
        ),
        (["down_blocks.0.temporal_attentions.0.x"], "Hotshot-XL temporal layers", ""),
        (["lora_unet_x.hada_w1_a"], "LoHa", ""),
        (["lora_unet_x.lora_down.weight", "lora_unet_x.dora_scale"], "DoRA", ""),
        (["unet.x.lora_A.weight"], "LoRA", "PEFT / diffusers"),
        (["emb_params"], "textual inversion", "of another text encoder"),
        (["*"], "textual inversion", "of another text encoder"),
        (["clip_l", "clip_g"], "textual inversion", "SDXL"),
        (["encoder.down.0.x"], "VAE, LDM layout", ""),
        (
            ["first_stage_model.encoder.down.0.x", "loss.logvar", "model_ema.decay"],
            "VAE, LDM layout",
            "",
        ),
        (["decoder.up_blocks.0.x"], "VAE, diffusers layout", ""),
        (["unet.mid_block.motion_modules.0.x.lora_A.weight"], "MotionLoRA", "v2"),
        (
            ["down_blocks.0.motion_modules.0.transformer_blocks.0.x"],
            "part of a motion module, diffusers MotionAdapter layout",
            "",
        ),
    ],
)
def test_other_kinds(keys: list[str], kind: str, version: str) -> None:
    result = detect({key: torch.zeros(4, 4) for key in keys})
    assert (result.kind, result.version) == (kind, version)


def test_unknown_content_names_its_keys() -> None:
    with pytest.raises(
        CheckpointError,
        match=r"x\.safetensors is none of the known .* 1 keys \(weight\)",
    ):
        detect({"weight": torch.zeros(1)}, "x.safetensors")
    with pytest.raises(CheckpointError, match="no tensors"):
        detect({})


@pytest.mark.parametrize(
    ("reader", "file", "message"),
    [
        (
            partial(read_motion_module, family=SD15),
            "loading/motion_lora_A.ckpt",
            "holds no motion modules: it is MotionLoRA v2",
        ),
        (
            partial(read_motion_module, family=SD15),
            "loading/kohya_lora.safetensors",
            "holds no motion modules: it is LoRA kohya",
        ),
        (
            partial(read_motion_module, family=SD15),
            "common/vae.safetensors",
            "holds no motion modules: it is VAE, diffusers layout",
        ),
        (
            read_sparse_controlnet,
            "loading/mm_v2.ckpt",
            "not a SparseCtrl branch: it is motion module v2",
        ),
        (
            partial(read_lora, family=SD15, shapes={}),
            "common/unet2d.safetensors",
            "not a LoRA file: it is UNet, diffusers layout",
        ),
    ],
)
def test_refusals_say_what_the_file_is(
    reader: Callable[[Path], object], file: str, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        reader(DATA / "golden" / file)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lora = {
        "unet.x.lora_A.weight": torch.zeros(4, 8),
        "unet.x.lora_B.weight": torch.zeros(8, 4).half(),
    }
    save_file(lora, tmp_path / "misleading_motion_module.safetensors")
    torch.save(
        {"string_to_param": {"*": torch.zeros(2, 768)}, "name": "cat"},
        tmp_path / "embedding.pt",
    )
    (tmp_path / "text.ckpt").write_text("words")
    assert main([str(tmp_path / "misleading_motion_module.safetensors")]) == 0
    rows = dict(
        line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line
    )
    assert (rows["kind"], rows["rank"], rows["parameters"], rows["keys"]) == (
        "LoRA",
        "4",
        "64",
        "2",
    )
    assert len(rows["sha256"]) == 64
    assert main([str(tmp_path / "embedding.pt")]) == 0
    rows = dict(
        line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line
    )
    assert (rows["kind"], rows["version"]) == ("textual inversion", "SD 1.5")
    assert main([str(tmp_path / "text.ckpt"), str(tmp_path / "absent.ckpt")]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in errors] == [
        "CHECKPOINT_MISMATCH",
        "ASSET_UNAVAILABLE",
    ]
