"""builder.convert: what the worker reads afterwards is what was published, rounded."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from animatediff.checkpoints.motion_module import read_motion_module
from animatediff.checkpoints.sparse_controlnet import read_sparse_controlnet
from animatediff.families import SD15
from animatediff.fetch.assets import Assets
from animatediff.fetch.installed import installed_motion_modules
from animatediff.settings import Settings
from builder.convert import main

ATTENTION = (
    "motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0"
)
TABLE = f"down_blocks.0.{ATTENTION}.pos_encoder.pe"
LORA = f"mid_block.{ATTENTION}.processor.to_q_lora"


@pytest.fixture
def motion(tiny_weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        k: t
        for k, t in tiny_weights.items()
        if ".motion_modules." in k and not k.startswith("mid_block.")
    }


def put(content: object, *place: str, folder: Path) -> Path:
    path = folder.joinpath(*place)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
    )


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: w,
        lambda w: {"epoch": 1, "state_dict": {f"module.{k}": t for k, t in w.items()}},
        lambda w: {
            **w,
            "animatediff_config": {"a": 1},
            "conv_in.weight": torch.zeros(4, 4, 3, 3),
        },
        lambda w: {**w, TABLE: torch.zeros(1, 24, 32)},
    ],
    ids=["bare", "trainer", "with the UNet", "with table"],
)
def test_a_motion_module_is_read_as_before_but_rounded(
    wrap, motion: dict[str, Tensor], tmp_path: Path
) -> None:
    path = put(wrap(motion), "motion_modules", "v3_sd15_mm.ckpt", folder=tmp_path)
    version = None if TABLE in wrap(motion) else "v3"
    before = read_motion_module(path, SD15, version=version)
    rounded = {key: tensor.half() for key, tensor in before.tensors.items()}
    assert main([str(tmp_path), "--remove"]) == 0
    assert files(tmp_path) == ["motion_modules/v3_sd15_mm.safetensors"]
    after = read_motion_module(path.with_suffix(".safetensors"), SD15, version=version)
    assert after.config == before.config
    assert after.tensors.keys() == rounded.keys()
    assert all(torch.equal(after.tensors[key], rounded[key]) for key in rounded)
    with safe_open(path.with_suffix(".safetensors"), "pt") as file:
        assert file.metadata()["converted_from"] == "v3_sd15_mm.ckpt"
        assert all(".motion_modules." in key for key in file.keys())  # noqa: SIM118 - not a mapping


@pytest.mark.parametrize("kind", ["rgb", "scribble"])
def test_sparsectrl(kind: str, golden: Path, tmp_path: Path) -> None:
    weights = load_file(golden / f"sparsectrl_{kind}" / "weights.safetensors")
    key = next(key for key in weights if key.endswith("attention_blocks.0.to_q.weight"))
    table = {key.replace("to_q.weight", "pos_encoder.pe"): torch.zeros(1, 48, 32)}
    path = put(
        {"controlnet": {f"module.{k}": t for k, t in {**weights, **table}.items()}},
        "s.ckpt",
        folder=tmp_path,
    )
    before = read_sparse_controlnet(path)
    assert main([str(tmp_path)]) == 0
    after = read_sparse_controlnet(tmp_path / "s.safetensors")
    assert after.config == before.config
    assert after.tensors.keys() == before.tensors.keys()
    assert all(
        torch.equal(after.tensors[k], before.tensors[k].half()) for k in before.tensors
    )


@pytest.mark.parametrize(
    "stem",
    [LORA, "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora"],
    ids=["motion", "domain"],
)
def test_loras_keep_their_keys_and_their_alpha(stem: str, tmp_path: Path) -> None:
    weights = {
        f"{stem}.down.weight": torch.randn(4, 32),
        f"{stem}.up.weight": torch.randn(32, 4),
    }
    put({**weights, f"{stem}.alpha": torch.tensor(0.1)}, "lora.ckpt", folder=tmp_path)
    assert main([str(tmp_path), "--remove"]) == 0
    after = load_file(tmp_path / "lora.safetensors")
    assert after.pop(f"{stem}.alpha").dtype == torch.float32
    assert after.keys() == weights.keys()
    assert all(torch.equal(after[key], weights[key].half()) for key in weights)


def test_the_worker_finds_the_twin(motion: dict[str, Tensor], tmp_path: Path) -> None:
    put(motion, "motion_modules", "v3_sd15_mm.ckpt", folder=tmp_path)
    lora = {
        f"{LORA}.down.weight": torch.randn(2, 32),
        f"{LORA}.up.weight": torch.randn(32, 2),
    }
    put(lora, "motion_lora", "v2_lora_ZoomIn.ckpt", folder=tmp_path)
    assert main([str(tmp_path), "--remove"]) == 0
    assets = Assets(Settings(models_dir=tmp_path, offline=True))
    assert installed_motion_modules(tmp_path) == ("v3_sd15_mm",)
    motion_module = assets.locate("v3_sd15_mm", "motion_module")
    assert motion_module.path is not None
    assert motion_module.path.suffix == ".safetensors"
    zoom = assets.locate("v2_lora_ZoomIn.ckpt", "loras.0.path")
    assert zoom.path is not None
    assert zoom.path.name == "v2_lora_ZoomIn.safetensors"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: {
                **w,
                next(iter(w)): torch.full_like(next(iter(w.values())), 1e6),
            },
            "float16 does not",
        ),
        (lambda _: {"*": torch.zeros(1, 768)}, "textual inversion"),
        (lambda _: {"x": torch.zeros(3)}, "none of the known kinds"),
    ],
    ids=["overflow", "another kind", "unknown"],
)
def test_what_cannot_be_converted_is_kept(
    change,
    message: str,
    motion: dict[str, Tensor],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = put(change(motion), "a", "x.ckpt", folder=tmp_path)
    content = path.read_bytes()
    assert main([str(tmp_path), "--remove"]) == 0
    assert files(tmp_path) == ["a/x.ckpt"]
    assert path.read_bytes() == content
    assert message in capsys.readouterr().err


def test_a_damaged_file_is_kept(tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_bytes(b"PK\x03\x04 no zip")
    assert main([str(tmp_path), "--remove"]) == 0
    assert files(tmp_path) == ["x.ckpt"]


def test_with_an_output_folder_the_rest_is_copied(
    motion: dict[str, Tensor], tmp_path: Path
) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    put(motion, "motion_modules", "mm.ckpt", folder=source)
    (source / "base").mkdir()
    (source / "base/config.json").write_text("{}")
    (source / ".incoming").mkdir()
    (source / ".incoming/half").write_text("x")
    assert main([str(source), "--output", str(output)]) == 0
    assert files(output) == ["base/config.json", "motion_modules/mm.safetensors"]
    assert "motion_modules/mm.ckpt" in files(source)


def test_nan_stays_nan_and_is_not_passed_on(
    motion: dict[str, Tensor], tmp_path: Path
) -> None:
    first = next(iter(motion))
    put({**motion, first: motion[first] * float("nan")}, "x.ckpt", folder=tmp_path)
    assert main([str(tmp_path), "--remove"]) == 0
    assert files(tmp_path) == ["x.ckpt"]


def test_no_folder(tmp_path: Path) -> None:
    assert main([str(tmp_path / "none")]) == 2
