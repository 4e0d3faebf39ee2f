import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from animatediff.checkpoints.single_file import read_single_file
from animatediff.families import SD15
from lab import measure_swaps
from lab.measure_swaps import (
    OURS,
    PEER,
    PEER_LORA,
    Measured,
    ldm_key,
    main,
    shapes_of,
)

KEYS = Path(__file__).parents[1] / "data" / "keys"
ON_AND_OFF = (
    "kohya LoRA",
    "v3 domain adapter",
    "v2 MotionLoRA",
    "DreamBooth",
    "DreamBooth stays, LoRA",
)
MOTION = ("motion module: v3 to v2", "motion module: v2 to v3")
SWAPS = {*(f"{name}: {side}" for name in ON_AND_OFF for side in ("on", "off")), *MOTION}


@pytest.mark.slow
def test_every_swap_is_measured_and_leaves_no_trace(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(measure_swaps, "find_spec", lambda _name: None)
    assert main(["--tiny", "--repeat", "1"]) == 0
    head, *lines, machine, verdict = capsys.readouterr().out.splitlines()
    assert head.split("  ")[-1].strip() == "copies MB"
    texts = {line[:34].strip(): line[34:] for line in lines}
    assert texts.keys() == {PEER, OURS, *PEER_LORA, *SWAPS}
    for name in PEER_LORA:
        assert "peft" in texts.pop(name)
    rows = {
        name: [float(number.replace(",", "")) for number in text.split()]
        for name, text in texts.items()
    }
    for seconds, best, ratio, read, written, copies in rows.values():
        assert min(seconds, best, ratio, written) > 0
        assert min(read, copies) >= 0
    reads = {name for name, row in rows.items() if row[3]}
    assert reads == {
        PEER,
        OURS,
        *MOTION,
        *(name for name in SWAPS if name.endswith(": on")),
    }
    read, written, copies = rows["DreamBooth stays, LoRA: on"][3:]
    assert read == rows["kohya LoRA: on"][3]  # the LoRA's file alone
    assert written == rows["kohya LoRA: on"][4]
    assert copies == rows["DreamBooth: on"][5]
    assert "not a GPU measurement" in machine
    assert verdict.startswith("All weights after the last swap are those before")
    assert not list(tmp_path.iterdir())


def test_a_lasting_change_is_reported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure_swaps, "RandomFiles", lambda *_: None)
    monkeypatch.setattr(
        measure_swaps, "measure_peer", lambda *_: {PEER: [Measured(1.0, 1, 1, 0)]}
    )
    monkeypatch.setattr(
        measure_swaps,
        "measure_ours",
        lambda *_: ({OURS: [Measured(0.5, 1, 1, 0)]}, False),
    )
    assert main(["--tiny", "--repeat", "1"]) == 1
    assert "NOT those" in capsys.readouterr().out.splitlines()[-1]


@pytest.fixture(scope="module")
def sd15() -> measure_swaps.Parts:
    return measure_swaps.build_parts(tiny=False)


def published(name: str) -> dict[str, tuple[int, ...]]:
    return {
        key: tuple(shape)
        for key, shape in json.loads((KEYS / f"{name}.json").read_text()).items()
    }


def test_the_files_have_the_published_keys_and_shapes(
    sd15: measure_swaps.Parts,
) -> None:
    unet = sd15["unet"]
    v2 = measure_swaps.motion_shapes(unet, "v2")
    assert shapes_of(unet) == published("unet_spatial_sd15")
    assert v2 == published("motion_module_v2")
    assert measure_swaps.motion_shapes(unet, "v3") == published("motion_module_v3")
    assert measure_swaps.processor_lora_shapes(v2, 64) == published(
        "motion_lora_v2_rank64"
    )
    assert measure_swaps.processor_lora_shapes(shapes_of(unet), 128) == published(
        "v3_adapter_rank128"
    )
    layers = [
        key
        for key in measure_swaps.kohya_lora_shapes(sd15, 32)
        if key.endswith(".alpha")
    ]
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


def test_the_first_release_names_are_read_back(
    sd15: measure_swaps.Parts, tmp_path: Path
) -> None:
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
    assert numbered.keys() == measure_swaps.dreambooth_shapes(sd15).keys()
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
