import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lab.golden.cases import CASES
from lab.golden.check import main


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_reference_data_agree(
    dtype: str, golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(golden), "--dtype", dtype]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == f"{len(lines)} passed, 0 failed"
    assert {line.split("/")[0] for line in lines} == set(CASES)
    assert all(line.endswith("ok") for line in lines)


def copied(golden: Path, target: Path, *cases: str) -> Path:
    for name in ("common", *cases):
        shutil.copytree(golden / name, target / name)
    return target


@pytest.mark.slow
def test_changed_number_fails(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(golden, tmp_path, "unet_v3")
    io = load_file(folder / "unet_v3" / "io.safetensors")
    io["b.out"] = io["b.out"].clone()
    io["b.out"].view(-1)[5] += 1e-3
    save_file(io, folder / "unet_v3" / "io.safetensors")
    assert main([str(folder)]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if "FAIL" in line]
    assert len(failed) == 1
    assert failed[0].startswith("unet_v3/b.out")


def test_nan_fails(golden: Path, tmp_path: Path) -> None:
    folder = copied(golden, tmp_path, "temporal")
    io = load_file(folder / "temporal" / "temporal.safetensors")
    io["no_pe.output"] = torch.full_like(io["no_pe.output"], float("nan"))
    save_file(io, folder / "temporal" / "temporal.safetensors")
    assert main([str(folder)]) == 1


def test_unknown_case_fails(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(golden, tmp_path, "scheduler")
    (folder / "warp_drive").mkdir()
    assert main([str(folder)]) == 1
    assert "no check knows this folder" in capsys.readouterr().out
    assert main([str(folder), "--skip", "warp_drive"]) == 0
    assert main([str(folder), "--only", "scheduler"]) == 0
    with pytest.raises(SystemExit):
        main([str(folder), "--only", "nothing"])


def test_case_without_numbers_fails(golden: Path, tmp_path: Path) -> None:
    folder = copied(golden, tmp_path)
    (folder / "unet_v3").mkdir()
    (folder / "unet_v3" / "case.json").write_text(json.dumps({}))
    save_file({"x": torch.zeros(1)}, folder / "unet_v3" / "io.safetensors")
    assert main([str(folder)]) == 1
