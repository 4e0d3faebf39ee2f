"""Every part runs, at the embedded family's widths with a clip of two frames."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from lab.bench import command, sizes, swaps
from lab.bench.command import PARTS, main
from lab.bench.figures import Row
from lab.bench.swaps import BUILD, PUT, TAKE

TINY = ["--size", "embedded", "--frames", "2", "--side", "64", "--steps", "1"]
ON_AND_OFF = (
    "kohya LoRA",
    "v3 domain adapter",
    "v2 MotionLoRA",
    "DreamBooth",
    "DreamBooth stays, LoRA",
)
MOTION = ("motion module: v3 to v2", "motion module: v2 to v3")
SWAPS = {*(f"{name}: {side}" for name in ON_AND_OFF for side in ("on", "off")), *MOTION}


def measured(parts: str, folder: Path) -> tuple[int, dict]:
    report = folder / "bench.json"
    code = main(["--parts", parts, *TINY, "--repeat", "1", "--json", str(report)])
    return code, json.loads(report.read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "rows"),
    [("step", 1), ("job", 1), ("decode", 1), ("text", 1), ("cold", 4), ("family", 1)],
)
def test_a_part_has_rows_of_both(
    part: str, rows: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, report = measured(part, tmp_path)
    assert code == 0
    assert report["machine"]["device"] == "cpu"
    assert len(report["rows"]) == rows
    for row in report["rows"]:
        assert row["part"] == part
        assert len(row["ours"]) == len(row["diffusers"]) == 1
        assert row["ratio"] == pytest.approx(row["ours"][0] / row["diffusers"][0])
    about, head, *lines = capsys.readouterr().out.splitlines()
    assert "float32" in about
    assert head.split() == ["ours", "diffusers", "ratio"]
    assert len(lines) == rows


@pytest.mark.slow
def test_the_queue_has_no_counterpart(tmp_path: Path) -> None:
    code, report = measured("queue", tmp_path)
    (row,) = report["rows"]
    assert code == 0
    assert row["ratio"] is None
    assert row["beside"] == "no counterpart: diffusers has no worker"
    assert row["ours"][0] > 0


@pytest.mark.slow
def test_every_swap_is_measured_and_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    importlib.import_module("torch._dynamo")  # makes a folder of its own
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, report = measured("swaps", tmp_path)
    assert code == 0
    first, *rest = report["rows"]
    assert first["what"] == BUILD
    rows = {row["what"].removeprefix("swap, "): row for row in rest}
    assert rows.keys() == SWAPS
    counterparts = {name: row["beside"] for name, row in rows.items()}
    assert counterparts.pop("kohya LoRA: on") == PUT
    assert counterparts.pop("kohya LoRA: off") == TAKE
    assert set(counterparts.values()) == {BUILD}
    read, written, kept = (
        {name: row["notes"][key] for name, row in rows.items()}
        for key in ("MB read", "MB written", "MB kept")
    )
    assert {name for name in rows if read[name]} == {
        *MOTION,
        *(name for name in SWAPS if name.endswith(": on")),
    }
    assert min(written.values()) > 0
    over_dreambooth = "DreamBooth stays, LoRA: on"
    assert read[over_dreambooth] == read["kohya LoRA: on"]  # the LoRA's file alone
    assert written[over_dreambooth] == written["kohya LoRA: on"]
    assert kept[over_dreambooth] >= kept["DreamBooth: on"]
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]


def test_a_lasting_change_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prints = iter(("before", "after"))
    pipeline = object()
    monkeypatch.setattr(swaps, "files_of", lambda _run: None)
    monkeypatch.setattr(swaps, "swaps_of", lambda _files: {})
    monkeypatch.setattr(
        swaps, "_built", lambda *_: (swaps.Measured(1, 1, 1, 0), pipeline)
    )
    measured_peer = [(BUILD, swaps.Measured(2, 1, 1, 0))]
    monkeypatch.setattr(swaps, "_peer", lambda *_: iter(measured_peer))
    monkeypatch.setattr(swaps, "fingerprint", lambda _pipeline: next(prints))
    code, report = measured("swaps", tmp_path)
    assert code == 1
    assert "a swap left a trace" in report["failed"]["swaps"]
    assert "a swap left a trace" in capsys.readouterr().err


def test_without_diffusers_our_figures_stand_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sizes, "find_spec", lambda _name: None)
    code, report = measured("step", tmp_path)
    (row,) = report["rows"]
    assert code == 0
    assert row["beside"] == "diffusers is not installed"
    assert row["diffusers"] == []
    assert "diffusers is not installed" in capsys.readouterr().out


def test_a_part_that_needs_diffusers_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(
        sys.modules, "diffusers.models.autoencoders.autoencoder_kl", None
    )
    code, report = measured("decode", tmp_path)
    assert code == 1
    assert report["rows"] == []
    assert report["failed"] == {"decode": "diffusers is not installed"}
    assert "decode: diffusers is not installed" in capsys.readouterr().err


def test_the_rows_of_parts_come_in_the_order_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        command, "rows", lambda part, _run: iter([Row(part, "s", [1.0], [2.0])])
    )
    code, report = measured("text,queue,step", tmp_path)
    assert code == 0
    assert [row["part"] for row in report["rows"]] == ["text", "queue", "step"]


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--parts", "step,stop"])
    error = capsys.readouterr().err
    assert "no part 'stop'" in error
    assert all(part in error for part in PARTS)
