"""The random files have the keys and shapes of the published ones."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from animatediff.checkpoints.single_file import read_single_file
from animatediff.families import SD15
from lab.bench.files import build_parts
from lab.bench.sizes import SIZES
from lab.bench.weight_names import (
    Parts,
    dreambooth_shapes,
    kohya_lora_shapes,
    ldm_key,
    motion_shapes,
    processor_lora_shapes,
    shapes_of,
)

KEYS = Path(__file__).parents[2] / "data" / "keys"


@pytest.fixture(scope="module")
def sd15() -> Parts:
    return build_parts(SIZES["sd15"])


def published(name: str) -> dict[str, tuple[int, ...]]:
    return {
        key: tuple(shape)
        for key, shape in json.loads((KEYS / f"{name}.json").read_text()).items()
    }


def test_the_files_have_the_published_keys_and_shapes(
    sd15: Parts,
) -> None:
    unet = sd15["unet"]
    v2 = motion_shapes(unet, "v2")
    assert shapes_of(unet) == published("unet_spatial_sd15")
    assert v2 == published("motion_module_v2")
    assert motion_shapes(unet, "v3") == published("motion_module_v3")
    assert processor_lora_shapes(v2, 64) == published("motion_lora_v2_rank64")
    assert processor_lora_shapes(shapes_of(unet), 128) == published(
        "v3_adapter_rank128"
    )
    layers = [key for key in kohya_lora_shapes(sd15, 32) if key.endswith(".alpha")]
    assert len(layers) == 192 + 72  # as many as kohya's trainer reports for SD 1.5
    sizes = {
        part: sum(torch.Size(shape).numel() for shape in shapes_of(sd15[part]).values())
        for part in sd15
    }
    assert sizes == {
        "unet": 859_520_964,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
    }


def test_the_first_release_names_are_read_back(sd15: Parts, tmp_path: Path) -> None:
    """Numbered weights, each of its number of dimensions, under the names of SD 1.5's
    real structure.
    """
    addresses = [(part, key) for part in sd15 for key in shapes_of(sd15[part])]
    dims = {
        (part, key): len(shape)
        for part in sd15
        for key, shape in shapes_of(sd15[part]).items()
    }
    numbered = {
        ldm_key(*a): torch.full((1,) * dims[a], i, dtype=torch.int32)
        for i, a in enumerate(addresses)
    }
    assert len(numbered) == len(addresses)
    assert numbered.keys() == dreambooth_shapes(sd15).keys()
    save_file(numbered, tmp_path / "x.safetensors")
    shapes = {address: torch.Size((1,) * dims[address]) for address in addresses}
    file = read_single_file(
        tmp_path / "x.safetensors", SD15, shapes, 2, sd15["vae"].config
    )
    assert not file.absent
    assert not file.unused
    assert {address: int(tensor) for address, tensor in file.tensors.items()} == {
        a: i for i, a in enumerate(addresses)
    }
