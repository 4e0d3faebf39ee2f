"""The one table of published files."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_hub import row

from animatediff import catalog
from animatediff.catalog.files import FileTableError, read_files

Make = Callable[..., Path]
KEYS = Path(__file__).parents[1] / "data" / "keys"


@pytest.mark.parametrize(
    ("change", "reports"),
    [
        ({"profiles": ["nobody's"]}, "not all are profiles"),
        ({"repo": "repo"}, "not owner/name"),
        ({"revision": "main"}, "neither null nor 40 hex digits"),
        ({"sha256": "abc"}, "neither null nor 64 hex digits"),
        ({"bytes": "12"}, "neither null nor a size"),
        ({"target": "../x"}, "not a path below the models folder"),
        ({"target": "/x"}, "not a path below the models folder"),
        ({"more": 1}, "exactly the keys"),
    ],
)
def test_a_table_that_cannot_be(change: dict, reports: str, table: Make) -> None:
    path = table(row())
    content = json.loads(path.read_text())
    content["files"][0].update(change)
    path.write_text(json.dumps(content))
    with pytest.raises(FileTableError, match=reports):
        read_files(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"profiles": {}}'])
def test_no_table_at_all(text: str, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(FileTableError, match="no table"):
        read_files(tmp_path / "m.json")


def test_two_rows_for_one_place(table: Make) -> None:
    with pytest.raises(
        FileTableError, match="two rows have the target weights/file.bin"
    ):
        read_files(table(row(), row(file="other.bin")))


def test_our_table_puts_published_files_where_the_worker_looks() -> None:
    for each in read_files().rows:
        name, folder = each.target.rpartition("/")[2], each.target.rpartition("/")[0]
        if name in catalog.PUBLISHED_FILES:
            published = catalog.PUBLISHED_FILES[name]
            assert (each.repo, each.file, folder) == (
                published.repo,
                name,
                published.folders[0],
            )
        else:
            assert each.target == f"{catalog.BASE_MODELS['sd15'].folder}/{each.file}"


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("v3_sd15_mm.ckpt", "motion_module_v3"),
        ("mm_sd_v15.ckpt", "motion_module_v1"),
        ("mm_sd_v15_v2.ckpt", "motion_module_v2"),
        ("v3_sd15_adapter.ckpt", "v3_adapter_rank128"),
        ("v2_lora_PanLeft.ckpt", "motion_lora_v2_rank64"),
        ("v3_sd15_sparsectrl_rgb.ckpt", "sparsectrl_rgb"),
        ("v3_sd15_sparsectrl_scribble.ckpt", "sparsectrl_scribble"),
    ],
)
def test_sizes_are_those_of_the_published_keys(name: str, keys: str) -> None:
    """An estimate is exactly its numbers; a file is its numbers and a header."""
    shapes = json.loads((KEYS / f"{keys}.json").read_text()).values()
    counted = 4 * sum(math.prod(shape) for shape in shapes)
    row = catalog.PUBLISHED_FILES[name]
    if row.bytes is None:
        assert row.about == counted
    else:
        assert row.about is None
        assert 0 <= row.bytes - counted < 0.005 * counted


def test_a_size_is_known_or_estimated_never_both() -> None:
    for each in read_files().rows:
        assert each.bytes is None or each.about is None
        assert each.size == (each.bytes or each.about)


def test_a_profile_is_found_by_what_it_puts_where() -> None:
    table = read_files()
    assert table.profile_with("stable-diffusion-v1-5") == "sd15-v3"
    assert table.profile_with("motion_modules/mm_sd_v15_v2.ckpt") == "sd15-v2"
    assert table.profile_with("motion_modules/mm_sd_v14.ckpt") == "all"
    assert table.profile_with("stable-diffusion") is None
    assert table.profile_with("shapeworld") is None


BASE = {
    *("text_encoder/config.json", "text_encoder/model.fp16.safetensors"),
    *("unet/config.json", "unet/diffusion_pytorch_model.fp16.safetensors"),
    *("vae/config.json", "vae/diffusion_pytorch_model.fp16.safetensors"),
    *(
        f"tokenizer/{name}"
        for name in (
            "merges.txt",
            "special_tokens_map.json",
            "tokenizer_config.json",
            "vocab.json",
        )
    ),
}
OURS = ("guoyww/animatediff", "wangfuyun/AnimateLCM", "ByteDance/AnimateDiff-Lightning")
PUBLISHED = {
    name for name, file in catalog.PUBLISHED_FILES.items() if file.repo in OURS
}
MOTION_LORAS = {name for name in PUBLISHED if name.startswith("v2_lora_")}
PROFILES = {
    "shapeworld": set(),
    "sd15-v3": BASE | {"v3_sd15_mm.ckpt"},
    "sd15-v2": BASE | {"mm_sd_v15_v2.ckpt"} | MOTION_LORAS,
    "sparsectrl": BASE
    | {"v3_sd15_mm.ckpt", "v3_sd15_adapter.ckpt"}
    | {f"v3_sd15_sparsectrl_{kind}.ckpt" for kind in ("rgb", "scribble")},
    "all": BASE | PUBLISHED,
}


def test_profiles_are_complete() -> None:
    ours = read_files()
    assert {
        profile: {each.file for each in ours.of_profile(profile)}
        for profile in ours.profiles
    } == PROFILES
    assert len(MOTION_LORAS) == 8


def test_the_default_of_a_real_model_is_pinned() -> None:
    assert all(each.pinned for each in read_files().of_profile("sd15-v3"))
