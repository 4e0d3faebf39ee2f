import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from animatediff.checkpoints.detect import described, detect
from animatediff.checkpoints.files import read_weights
from animatediff.checkpoints.lora import read_lora
from animatediff.checkpoints.motion_module import read_motion_module
from animatediff.checkpoints.sparse_controlnet import read_sparse_controlnet
from animatediff.cli.inspect import main
from animatediff.errors import CheckpointError
from animatediff.families import SD15

DATA = Path(__file__).parents[1] / "data"
PROCESSORS = "attention processors, as of a domain adapter"
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
        ("loading/v3_adapter.ckpt", "LoRA", PROCESSORS),
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
        ("v3_adapter_rank128", "LoRA", PROCESSORS, (128,)),
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
        (["lora_unet_x.hada_w1_a"], "LoHa", "kohya"),
        (["lycoris_x.lokr_w1"], "LoKr", "kohya"),
        (["base_model.model.x.hada_w1_a"], "LoHa", "PEFT / diffusers"),
        (["lora_unet_x.lora_down.weight", "lora_unet_x.dora_scale"], "DoRA", "kohya"),
        (["x.lora_A.weight", "x.lora_magnitude_vector"], "DoRA", "PEFT / diffusers"),
        (
            ["lora_unet_x.hada_w1_a", "lora_unet_y.lora_up.weight"],
            "LoRA, LoHa",
            "kohya",
        ),
        (["lora_unet_x.diff", "lora_unet_y.b_norm"], "full difference", "kohya"),
        (["lora_unet_x.b_norm"], "change of biases", "kohya"),
        (["lora_unet_x.dora_scale"], "DoRA", "kohya"),
        (["lora_unet_x.weight", "lora_unet_x.on_input"], "IA3", "kohya"),
        (["x.ia3_l"], "IA3", "PEFT / diffusers"),
        (["lora_unet_x.oft_blocks"], "OFT or BOFT", "kohya"),
        (
            ["unet:0:up", "unet:0:down"],
            "LoRA whose layers have numbers for names",
            "PEFT / diffusers",
        ),
        (
            ["x.motion_modules.0.y.hada_w1_a"],
            "MotionLoRA, LoHa",
            "v1 or v3",
        ),
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


FOREIGN = {
    "SDXL": [
        "lora_te2_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight",
        "lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q.lora_down.weight",
        "lora_unet_middle_block_1_transformer_blocks_9_ff_net_2.lora_down.weight",
        "lora_unet_output_blocks_1_1_proj_in.lora_down.weight",
        "lora_unet_label_emb_0_0.lora_down.weight",
        "unet.up_blocks.0.attentions.0.proj_in.lora_A.weight",
        "unet.down_blocks.2.attentions.1.transformer_blocks.7.attn1.to_q.lora_A.weight",
        "unet.add_embedding.linear_1.lora.down.weight",
        "text_encoder_2.text_model.encoder.layers.1.mlp.fc1.lora_A.weight",
        "lora_unet_input_blocks_7_1_transformer_blocks_3_attn2_to_v.hada_w1_b",
    ],
    "SD 2": [
        "lora_te_text_model_encoder_layers_22_mlp_fc1.lora_down.weight",
        "text_encoder.text_model.encoder.layers.12.mlp.fc1.lora_A.weight",
    ],
    "Flux": [
        "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight",
        "lora_unet_single_blocks_3_linear1.lora_down.weight",
        "transformer.single_transformer_blocks.3.attn.to_q.lora_A.weight",
        "diffusion_model.double_blocks.0.txt_mlp.0.lora_A.weight",
    ],
    "SD 3": [
        "lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight",
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q.lora_down.weight",
    ],
    "a diffusion transformer": [
        "transformer.transformer_blocks.0.attn.to_q.lora_A.weight",
        "lora_unet_blocks_0_self_attn_q.lora_down.weight",
        "diffusion_model.blocks.0.self_attn.q.lora_A.weight",
    ],
}


@pytest.mark.parametrize(
    ("model", "key"), [(model, key) for model, keys in FOREIGN.items() for key in keys]
)
def test_loras_for_other_models_are_refused_by_its_name(
    model: str, key: str, tmp_path: Path
) -> None:
    """Even if the file has a layer that would fit."""
    prefix = "lora_unet_down_blocks_0_attentions_0_proj_in"
    weights = {
        key: torch.zeros(4, 4),
        f"{prefix}.lora_down.weight": torch.zeros(4, 8),
        f"{prefix}.lora_up.weight": torch.zeros(8, 4),
    }
    assert detect(weights).version.endswith(f", for {model}")
    save_file(weights, tmp_path / "x.safetensors")
    shapes = {
        ("unet", "down_blocks.0.attentions.0.proj_in.weight"): torch.Size((8, 8)),
    }
    with pytest.raises(CheckpointError, match=f" for {model}; one for SD 1.5 is expec"):
        read_lora(tmp_path / "x.safetensors", SD15, shapes)


@pytest.mark.parametrize(
    ("width", "model"), [(2048, "SDXL"), (1024, "SD 2"), (768, None), (64, None)]
)
@pytest.mark.parametrize(
    ("part", "other", "rows"),
    [
        ("lora_down.weight", "lora_up.weight", 4),
        ("hada_w1_b", "hada_w1_a", 4),
        ("diff", "diff_b", 8),
    ],
)
def test_the_width_of_the_text_shows_the_model(
    width: int, model: str | None, part: str, other: str, rows: int
) -> None:
    layer = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    weights = {
        f"{layer}.{part}": torch.zeros(rows, width),
        f"{layer}.{other}": torch.zeros(8, 4),
    }
    suffix = "" if model is None else f", for {model}"
    assert detect(weights).version == f"kohya{suffix}"


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


LAYER = "down_blocks.0.attentions.0.proj_in"
ROWS, COLUMNS = 8, 6
PARTS = {
    "LoRA": {"lora_down.weight": (2, COLUMNS), "lora_up.weight": (ROWS, 2)},
    "LoHa": {
        f"hada_w{i}_{side}": shape
        for i in "12"
        for side, shape in {"a": (ROWS, 2), "b": (2, COLUMNS)}.items()
    },
    "LoKr": {"lokr_w1": (2, 2), "lokr_w2": (4, 3)},
    "DoRA": {
        "lora_A.weight": (2, COLUMNS),
        "lora_B.weight": (ROWS, 2),
        "dora_scale": (ROWS, 1),
    },
    "IA3": {"ia3_l": (ROWS, 1)},
    "full difference": {"diff": (ROWS, COLUMNS)},
    "OFT": {"oft_diag": (2, 4, 4)},
}


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize(
    "layer", [f"lora_unet_{LAYER.replace('.', '_')}", LAYER, f"unet.{LAYER}"]
)
def test_the_command_names_the_kind_that_the_reader_accepts(
    kind: str, layer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.safetensors"
    weights = {
        f"{layer}.{part}": torch.ones(shape) for part, shape in PARTS[kind].items()
    }
    save_file(weights, path)
    assert main([str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert dict(line.split(maxsplit=1) for line in lines if line)["kind"] == kind
    shapes = {("unet", f"{LAYER}.weight"): torch.Size((ROWS, COLUMNS))}
    if kind == "OFT":
        with pytest.raises(CheckpointError, match="is OFT, which is not supported"):
            read_lora(path, SD15, shapes)
    else:
        assert len(read_lora(path, SD15, shapes).changes) == 1


ONE = torch.zeros(1)
LATENTS_OF_16 = torch.zeros(8, 16, 3, 3)
SDXL_TEXT = {"mid_block.attentions.0.attn2.to_k.weight": torch.zeros(4, 2048)}


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (
            {"down_blocks.0.x": ONE, "conv_in.weight": ONE, **SDXL_TEXT},
            "UNet, diffusers layout SDXL",
        ),
        (
            {"down_blocks.0.x": ONE, "conv_in.weight": torch.zeros(8, 9, 3, 3)},
            "UNet, diffusers layout for inpainting",
        ),
        (
            {"controlnet_cond_embedding.conv_in.weight": ONE, **SDXL_TEXT},
            "ControlNet for still images SDXL",
        ),
        (
            {"control_model.input_blocks.0.0.weight": ONE},
            "ControlNet for still images",
        ),
        ({"adapter.body.0.resnets.0.x": ONE}, "T2I-Adapter for still images"),
        (
            {"decoder.up_blocks.0.x": ONE, "decoder.conv_in.weight": LATENTS_OF_16},
            "VAE, diffusers layout Flux or SD 3",
        ),
        (
            {"decoder.up.0.x": ONE, "decoder.conv_in.weight": LATENTS_OF_16},
            "VAE, LDM layout Flux or SD 3",
        ),
        ({"double_blocks.0.img_attn.proj.bias": ONE}, "image model Flux"),
    ],
)
def test_files_that_do_not_run_here_are_named(
    weights: dict[str, torch.Tensor], words: str
) -> None:
    assert described(weights) == words
