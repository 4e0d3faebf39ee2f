"""Every layer of the model, in every spelling that LoRA files have for it."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from animatediff.checkpoints import lora
from animatediff.checkpoints.detect import detect
from animatediff.checkpoints.ldm_names import LdmUNetKeys
from animatediff.checkpoints.lora_names import Shapes
from animatediff.checkpoints.lora_settings import AdapterSettings
from animatediff.families import SD15
from animatediff.fetch.weight_file import WeightFile

KEYS = Path(__file__).parents[1] / "data" / "keys"
MOTION = ".motion_modules."
FILE = WeightFile("x.safetensors", Path("x.safetensors"), (0, 0))


def published(name: str) -> dict[str, torch.Size]:
    table = json.loads((KEYS / f"{name}.json").read_text())
    return {key: torch.Size(shape) for key, shape in table.items()}


SPATIAL = published("unet_spatial_sd15")
TEMPORAL = {
    key: shape
    for key, shape in published("motion_module_v2").items()
    if MOTION in key and "pos_encoder" not in key
}
TEXT = {
    f"encoder.layers.{i}.{layer}.weight": torch.Size(shape)
    for i in range(12)
    for layer, shape in {
        **{f"self_attn.{at}_proj": (768, 768) for at in ("q", "k", "v", "out")},
        "mlp.fc1": (3072, 768),
        "mlp.fc2": (768, 3072),
    }.items()
}
MODELS = {"spatial": SPATIAL, "temporal": TEMPORAL, "text": TEXT}
SHAPES: Shapes = {
    **{("unet", key): shape for key, shape in (SPATIAL | TEMPORAL).items()},
    **{("text_encoder", key): shape for key, shape in TEXT.items()},
}


def matrices(part: str) -> dict[str, torch.Size]:
    """The layers of a part that have a matrix, by their names, and its shape."""
    return {
        key.removesuffix(".weight"): shape
        for key, shape in MODELS[part].items()
        if len(shape) > 1
    }


LDM = LdmUNetKeys(SPATIAL, 2)


def ldm(layer: str) -> str:
    return LDM.renamed(f"{layer}.weight").removesuffix(".weight")


def flat(layer: str) -> str:
    return layer.replace(".", "_")


def as_motion_adapter(layer: str) -> str:
    """As diffusers' conversion script writes it."""
    layer = layer.replace(".temporal_transformer", "")
    for i in (0, 1):
        layer = layer.replace(f".attention_blocks.{i}", f".attn{i + 1}")
    return layer


def of_motion_adapter(spelling: "Spelling") -> "Spelling":
    rename, down, up, naming = spelling
    return lambda layer: rename(as_motion_adapter(layer)), down, up, naming


def in_processor(layer: str) -> str:
    """``attn1.to_out.0`` -> ``attn1.processor.to_out``."""
    attention, _, last = layer.removesuffix(".0").rpartition(".")
    return f"{attention}.processor.{last}"


def by_motion_director(layer: str) -> str:
    """That trainer inserts the processor before the last step, whatever it is."""
    before, _, last = layer.rpartition(".")
    return f"{before}.processor.{last}"


def with_old_names(layer: str) -> str:
    for old, new in {"to_q": "q", "to_k": "k", "to_v": "v", "to_out": "out"}.items():
        layer = layer.replace(f"{new}_proj", old)
    return layer


Spelling = tuple[Callable[[str], str], str, str, str]
"""The layer's name in the file, the ends of its down and up keys, the naming."""
KOHYA = (".lora_down.weight", ".lora_up.weight", "kohya")
PEFT = (".lora_A.weight", ".lora_B.weight", "PEFT / diffusers")
NAMED = (".lora_A.my_style.weight", ".lora_B.my_style.weight", "PEFT / diffusers")
BARE = (".lora_A", ".lora_B", "PEFT / diffusers")
DIFFUSERS = (".lora.down.weight", ".lora.up.weight", "PEFT / diffusers")
LINEAR = (
    ".lora_linear_layer.down.weight",
    ".lora_linear_layer.up.weight",
    "PEFT / diffusers",
)
DOTTED = (*KOHYA[:2], "PEFT / diffusers")
OLD = ("_lora.down.weight", "_lora.up.weight", "PEFT / diffusers")
PROCESSOR = (*OLD[:2], "attention processors, as of a domain adapter")

UNET: Mapping[str, Spelling] = {
    "kohya": (lambda x: f"lora_unet_{flat(x)}", *KOHYA),
    "LyCORIS": (lambda x: f"lycoris_{flat(x)}", *KOHYA),
    "OneTrainer": (lambda x: f"lora_unet.{x}", *KOHYA),
    "PEFT": (lambda x: f"base_model.model.{x}", *PEFT),
    "PEFT, all of a pipeline": (lambda x: f"base_model.model.unet.{x}", *PEFT),
    "PEFT inside": (lambda x: f"unet.base_model.model.{x}", *PEFT),
    "PEFT, named": (lambda x: f"base_model.model.{x}", *NAMED),
    "named": (lambda x: f"unet.{x}", *NAMED),
    "bare PEFT": (lambda x: x, *PEFT),
    "bare PEFT, no end": (lambda x: x, *BARE),
    "bare diffusers": (lambda x: x, *DIFFUSERS),
    "diffusers with PEFT": (lambda x: f"unet.{x}", *PEFT),
    "diffusers": (lambda x: f"unet.{x}", *DIFFUSERS),
    "diffusers, linear": (lambda x: f"unet.{x}", *LINEAR),
    "parallel": (lambda x: f"module.{x}", *DIFFUSERS),
    "compiled": (lambda x: f"unet._orig_mod.{x}", *PEFT),
    "state dict": (lambda x: f"unet.{x}", *DOTTED),
}
SPATIAL_ONLY: Mapping[str, Spelling] = {
    "kohya, LDM": (lambda x: f"lora_unet_{flat(ldm(x))}", *KOHYA),
    "ComfyUI, LDM": (lambda x: f"diffusion_model.{ldm(x)}", *DOTTED),
    "ComfyUI, LDM, PEFT": (lambda x: f"diffusion_model.{ldm(x)}", *PEFT),
    "single file, LDM": (lambda x: f"model.diffusion_model.{ldm(x)}", *DOTTED),
}
TEXT_ENCODER: Mapping[str, Spelling] = {
    "kohya": (lambda x: f"lora_te_text_model_{flat(x)}", *KOHYA),
    "kohya, te1": (lambda x: f"lora_te1_text_model_{flat(x)}", *KOHYA),
    "kohya, short": (lambda x: f"lora_te_{flat(x)}", *KOHYA),
    "PEFT": (lambda x: f"base_model.model.text_model.{x}", *PEFT),
    "PEFT, named": (lambda x: f"base_model.model.text_model.{x}", *NAMED),
    "bare": (lambda x: f"text_model.{x}", *PEFT),
    "bare, short": (lambda x: x, *PEFT),
    "diffusers with PEFT": (lambda x: f"text_encoder.text_model.{x}", *PEFT),
    "diffusers": (lambda x: f"text_encoder.text_model.{x}", *LINEAR),
    "short": (lambda x: f"text_encoder.{x}", *PEFT),
    "old": (lambda x: f"text_encoder.text_model.{with_old_names(x)}", *OLD),
    "processors": (
        lambda x: in_processor(f"text_encoder.text_model.{with_old_names(x)}"),
        *PROCESSOR,
    ),
}
ATTENTION: Mapping[str, Spelling] = {
    "processors": (in_processor, *PROCESSOR),
    "diffusers' processors": (lambda x: f"unet.{in_processor(x)}", *PROCESSOR),
}
TRAINERS: Mapping[str, Spelling] = {
    "MotionDirector": (by_motion_director, *PROCESSOR),
    "MotionDirector, all": (lambda x: x, *DOTTED),
}


def spellings() -> Iterator[tuple[str, str, Spelling, str]]:
    """Part of the model, name, spelling, and what a layer's name must contain."""
    for part in ("spatial", "temporal"):
        for name, spelling in UNET.items():
            yield part, name, spelling, ""
        for name, spelling in ATTENTION.items():
            yield part, name, spelling, ".to_"
    for name, spelling in SPATIAL_ONLY.items():
        yield "spatial", name, spelling, ""
    for name, spelling in TRAINERS.items():
        yield "temporal", name, spelling, ""
    for name, spelling in {**UNET, **ATTENTION}.items():
        layers = ".to_" if name in ATTENTION else ""
        yield "temporal", f"MotionAdapter, {name}", of_motion_adapter(spelling), layers
    for name, spelling in TEXT_ENCODER.items():
        layers = ".self_attn." if name == "processors" else ""
        yield "text", name, spelling, layers


ALL = list(spellings())


def small(shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Matrices of rank 1."""
    return torch.ones(1, *shape[1:]), torch.ones(shape[0], 1, *(1 for _ in shape[2:]))


@pytest.mark.parametrize(
    ("part", "spelling", "contained"),
    [(part, spelling, contained) for part, _, spelling, contained in ALL],
    ids=[f"{part}: {name}" for part, name, _, _ in ALL],
)
def test_every_layer_in_every_spelling(
    part: str, spelling: Spelling, contained: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, down_end, up_end, naming = spelling
    expected: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
    file: dict[str, Tensor] = {}
    for layer, shape in matrices(part).items():
        if contained in layer:
            down, up = small(shape)
            name = rename(layer)
            file |= {f"{name}{down_end}": down, f"{name}{up_end}": up}
            model = "text_encoder" if part == "text" else "unet"
            expected[model, f"{layer}.weight"] = (down, up)
    assert len(file) == 2 * len(expected) > 90
    kind = detect(file)
    assert kind.kind == ("MotionLoRA" if part == "temporal" else "LoRA")
    assert kind.version == ("v2" if part == "temporal" else naming)
    assert kind.ranks == (1,)
    monkeypatch.setattr(lora, "read_weights", lambda _file: file)
    monkeypatch.setattr(lora, "check_finite", lambda *_: None)  # there are no numbers
    read = lora.read_lora(FILE, SD15, SHAPES)
    assert read.unmatched == ()
    assert {change.address for change in read.changes} == expected.keys()
    for change in read.changes:
        down, up = expected[change.address]
        assert change.tensors["down"] is down
        assert change.tensors["up"] is up


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        ("conv_in", "input_blocks_0_0"),
        ("time_embedding.linear_2", "time_embed_2"),
        ("down_blocks.0.resnets.1.conv1", "input_blocks_2_0_in_layers_2"),
        ("down_blocks.0.downsamplers.0.conv", "input_blocks_3_0_op"),
        ("down_blocks.1.attentions.0.proj_in", "input_blocks_4_1_proj_in"),
        ("down_blocks.1.resnets.0.conv_shortcut", "input_blocks_4_0_skip_connection"),
        ("mid_block.resnets.1.time_emb_proj", "middle_block_2_emb_layers_1"),
        ("up_blocks.0.upsamplers.0.conv", "output_blocks_2_1_conv"),
        ("up_blocks.1.upsamplers.0.conv", "output_blocks_5_2_conv"),
        ("up_blocks.3.attentions.2.proj_out", "output_blocks_11_1_proj_out"),
        ("conv_out", "out_2"),
    ],
)
def test_names_of_the_first_release(
    layer: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    down, up = small(SPATIAL[f"{layer}.weight"])
    file = {f"lora_unet_{name}.lora_down.weight": down}
    file[f"lora_unet_{name}.lora_up.weight"] = up
    monkeypatch.setattr(lora, "read_weights", lambda _file: file)
    monkeypatch.setattr(lora, "check_finite", lambda *_: None)  # there are no numbers
    (change,) = lora.read_lora(FILE, SD15, SHAPES).changes
    assert change.address == ("unet", f"{layer}.weight")


LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    ("ends", "alpha"),
    [
        ((f"lora_unet_{flat(LAYER)}", *KOHYA[:2]), ".alpha"),
        ((f"unet.{LAYER}", *PEFT[:2]), ".alpha"),
        ((f"unet.{LAYER}", *PEFT[:2]), ".lora_A.alpha"),
        ((f"unet.{LAYER}", *NAMED[:2]), ".alpha"),
        ((f"unet.{LAYER}", *DIFFUSERS[:2]), ".alpha"),
        ((f"unet.{LAYER}", *DIFFUSERS[:2]), ".lora.alpha"),
        ((f"unet.{LAYER}", *DIFFUSERS[:2]), ".lora.network_alpha"),
        ((f"unet.{LAYER}", *DIFFUSERS[:2]), ".lora.down.weight.alpha"),
        ((in_processor(LAYER), *OLD[:2]), "_lora.alpha"),
        ((in_processor(LAYER), *OLD[:2]), "_lora.down.weight.alpha"),
        ((in_processor(LAYER), *OLD[:2]), ".alpha"),
    ],
)
def test_alpha_in_every_spelling(
    ends: tuple[str, str, str], alpha: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, down_end, up_end = ends
    file = {
        f"{layer}{down_end}": torch.zeros(4, 320),
        f"{layer}{up_end}": torch.zeros(320, 4),
        f"{layer}{alpha}": torch.tensor(8.0),
    }
    monkeypatch.setattr(lora, "read_weights", lambda _file: file)
    monkeypatch.setattr(lora, "check_finite", lambda *_: None)  # there are no numbers
    read = lora.read_lora(FILE, SD15, SHAPES)
    assert [change.scale for change in read.changes] == [2.0]
    assert read.unmatched == ()
    (plain,) = lora.read_lora(FILE, SD15, SHAPES, ignore_file_alpha=True).changes
    assert plain.scale == 1.0


def test_settings_of_peft_in_the_header() -> None:
    settings = AdapterSettings(
        {
            "unet.lora_alpha": 8,
            "unet.alpha_pattern": {"attn1.to_q": 2, "^conv_in": 1},
            "text_encoder.lora_alpha": 16,
            "text_encoder.use_rslora": True,
        }
    )
    assert settings.scale("unet", "mid_block.attn1.to_k", 4) == 2
    assert settings.scale("unet", "mid_block.attn1.to_q", 4) == 0.5
    assert settings.scale("unet", "mid_block.other_attn1.to_q", 4) == 2
    assert settings.scale("unet", "conv_in", 4) == 0.25
    assert settings.scale("text_encoder", "encoder", 16) == 4
    assert settings.scale("vae", "encoder", 4) == 1
    assert AdapterSettings({"lora_alpha": 6}).scale("unet", "conv_in", 3) == 2
    for no_number in ("6", None, float("nan"), float("inf"), 10**400):
        wrong = AdapterSettings({"lora_alpha": no_number})
        assert wrong.scale("unet", "conv_in", 3) == 1
