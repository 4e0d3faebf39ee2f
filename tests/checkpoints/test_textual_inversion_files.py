from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from animatediff.checkpoints.detect import detect
from animatediff.checkpoints.files import read_weights
from animatediff.checkpoints.textual_inversion import read_textual_inversion
from animatediff.errors import AssetError, CheckpointError

Layout = Callable[[Tensor], Any]
PICKLED: dict[str, tuple[Layout, str | None]] = {
    "A1111": (
        lambda v: {
            "string_to_param": {"*": v},
            "string_to_token": {"*": 265},
            "name": "cat",
            "step": 9,
        },
        None,
    ),
    "A1111, token as a tensor": (
        lambda v: {
            "string_to_token": {"*": torch.tensor(265)},
            "string_to_param": {"*": v},
            "name": "cat",
        },
        None,
    ),
    "A1111, trained": (
        lambda v: {"string_to_param": {"*": torch.nn.Parameter(v)}, "name": "cat"},
        None,
    ),
    "kohya": (lambda v: {"emb_params": v}, None),
    "diffusers": (lambda v: {"<cat>": v}, "<cat>"),
    "the first trainer": (
        lambda v: {
            "string_to_token": {"*": torch.tensor(265)},
            "string_to_param": nn.ParameterDict({"*": nn.Parameter(v)}),
        },
        None,
    ),
    "a tensor alone": (lambda v: v, None),
    "a parameter alone": (nn.Parameter, None),
}
IN_SAFETENSORS = ("kohya", "diffusers")


def saved(content: dict[str, Any], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn]
)
@pytest.mark.parametrize(
    ("layout", "suffix"),
    [
        *((layout, ".pt") for layout in PICKLED),
        *((layout, ".safetensors") for layout in IN_SAFETENSORS),
    ],
)
def test_every_layout_holds_the_same_vectors(
    layout: str, suffix: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    vectors = torch.randn(3, 768).to(dtype)
    wrap, token = PICKLED[layout]
    path = saved(wrap(vectors.clone()), tmp_path / f"x{suffix}")
    read = read_textual_inversion(path, 768)
    assert (read.name, list(read.words)) == (path.name, [token])
    assert torch.equal(read.words[token].float(), vectors.float())
    assert not read.words[token].requires_grad
    contents = detect(read_weights(path))
    assert (contents.kind, contents.version) == ("textual inversion", "SD 1.5")


@pytest.mark.parametrize("layout", PICKLED)
def test_a_single_vector_is_one_row(layout: str, tmp_path: Path) -> None:
    vector = torch.randn(768)
    wrap, token = PICKLED[layout]
    path = saved(wrap(vector.clone()), tmp_path / "x.bin")
    read = read_textual_inversion(path, 768)
    assert torch.equal(read.words[token], vector[None])


@pytest.mark.parametrize("layout", PICKLED)
@pytest.mark.parametrize(("width", "pattern"), [(1024, r"1024 \(SD 2\)"), (640, "640")])
def test_another_text_encoder_s_width_is_named(
    layout: str, width: int, pattern: str, tmp_path: Path
) -> None:
    path = saved(PICKLED[layout][0](torch.zeros(2, width)), tmp_path / "x.pt")
    with pytest.raises(
        CheckpointError, match=f"of width {pattern}; this text encoder's is 768"
    ):
        read_textual_inversion(path, 768)


def test_the_width_is_the_model_s(tmp_path: Path) -> None:
    path = saved({"<cat>": torch.zeros(2, 768)}, tmp_path / "x.bin")
    with pytest.raises(
        CheckpointError, match=r"768 \(SD 1.5\); this text encoder's is 32"
    ):
        read_textual_inversion(path, 32)


def test_sdxl_is_named(tmp_path: Path) -> None:
    content = {"clip_l": torch.zeros(2, 768), "clip_g": torch.zeros(2, 1280)}
    with pytest.raises(CheckpointError, match="textual inversion SDXL"):
        read_textual_inversion(saved(content, tmp_path / "x.safetensors"), 768)


def test_several_words(tmp_path: Path) -> None:
    words = {"<cat>": torch.randn(2, 768), "<dog>": torch.randn(768)}
    path = saved(words, tmp_path / "x.safetensors")
    read = read_textual_inversion(path, 768)
    assert list(read.words) == ["<cat>", "<dog>"]
    assert torch.equal(read.words["<dog>"], words["<dog>"][None])
    kind = detect(read_weights(path))
    assert (kind.kind, kind.version) == ("textual inversion", "SD 1.5")


def test_the_name_that_a_file_gives_itself(tmp_path: Path) -> None:
    content = {"string_to_param": {"*": torch.zeros(1, 768)}, "name": "cat"}
    read = read_textual_inversion(saved(content, tmp_path / "x.pt"), 768)
    assert (list(read.words), read.title) == ([None], "cat")


BAD = {
    "nan": {"<cat>": torch.tensor([[0.0] * 767 + [float("nan")]])},
    "inf": {"<cat>": torch.tensor([[0.0] * 767 + [float("inf")]], dtype=torch.float16)},
    "no vectors": {"<cat>": torch.zeros(0, 768)},
    "integers": {"<cat>": torch.zeros(1, 768, dtype=torch.int64)},
    "three axes": {"<cat>": torch.zeros(1, 1, 768)},
    "a word and none": {"<cat>": torch.zeros(1, 768), "*": torch.zeros(1, 768)},
    "a layer": {"weight": torch.zeros(768, 768), "bias": torch.zeros(768)},
    "many words": {f"<{i}>": torch.zeros(1, 768) for i in range(101)},
    "nothing": {"string_to_param": {}, "name": "cat"},
}


@pytest.mark.parametrize("harm", BAD)
def test_unusable_vectors_are_refused(harm: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^x\.bin "):
        read_textual_inversion(saved(BAD[harm], tmp_path / "x.bin"), 768)


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("loading/kohya_lora.safetensors", "LoRA kohya"),
        ("loading/mm_v2.ckpt", "motion module v2"),
        ("common/vae.safetensors", "VAE, diffusers layout"),
    ],
)
def test_other_files_are_refused_by_what_they_are(
    file: str, kind: str, golden: Path
) -> None:
    with pytest.raises(
        CheckpointError,
        match=f"is not a textual inversion for this model: it is {kind}",
    ):
        read_textual_inversion(golden / file, 768)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(AssetError):
        read_textual_inversion(tmp_path / "absent.pt", 768)
