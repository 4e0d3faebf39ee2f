"""The plan of the embedded family's training: its configs, its tests, and what happens
when one is missed.
"""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from animatediff.training.config import load_config
from lab import train_shapeworld
from lab.evaluate import SUITES
from lab.shapeworld.source import World
from lab.train_shapeworld import CONFIGS, SHIPPED, STEPS, Step


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_every_step_s_config_is_valid(step: Step) -> None:
    config = load_config(CONFIGS / f"{step.config}.yaml", step.overrides)
    assert isinstance(config.data, World)
    assert config.output_dir.startswith("runs/shapeworld/")
    assert step.takes
    assert step.least


def test_every_config_is_a_step_and_every_suite_s_file_is_made() -> None:
    assert {step.config for step in STEPS} == {
        path.stem for path in CONFIGS.glob("*.yaml")
    }
    made = {place for step in STEPS for place in step.takes.values()}
    assert {file for suite in SUITES.values() for file in suite.files} <= made


def test_tests_measure_the_family_that_ships() -> None:
    assert train_shapeworld.reconstruction(SHIPPED, clips=3)["background"] == 1
    reports = train_shapeworld.word_distances(SHIPPED)
    assert min(reports.values()) > 0.05


class Trained:
    """Stands for train.py: writes what a step exports."""

    def __init__(self, work: Path) -> None:
        self.work, self.runs = work, 0

    def __call__(self, command: list[str], **_: Any) -> SimpleNamespace:
        self.runs += 1
        export = self.work / "motion_v3" / "export"
        export.mkdir(parents=True, exist_ok=True)
        (export / "motion_module.safetensors").write_bytes(b"weights")
        lines = [
            {"step": 10, "loss": 3, "seconds_per_step": 2.0},
            {"step": 10, "validation/psnr": 3},
        ]
        lines.append({"step": 15, "loss": 1, "seconds_per_step": 4.0})
        (export.parent / "metrics.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in lines)
        )
        assert f"output_dir={self.work / 'motion_v3'}" in command
        return SimpleNamespace(returncode=0)


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trained:
    stand_in = Trained(tmp_path)
    monkeypatch.setattr(train_shapeworld.subprocess, "run", stand_in)
    return stand_in


def test_step_that_is_good_is_kept_and_not_done_again(
    tmp_path: Path, trained: Trained
) -> None:
    step = next(step for step in STEPS if step.name == "motion_v3")
    good = replace(step, test=lambda _family: {"motion": 0.9}, least={"motion": 0.8})
    for _ in range(2):
        assert train_shapeworld.run(good, tmp_path, 1) == {"motion": 0.9}
    assert trained.runs == 1
    assert (
        tmp_path / "models" / "shapeworld" / "motion_module_v3.safetensors"
    ).read_bytes() == b"weights"
    config = load_config(CONFIGS / "motion_v3.yaml")
    assert train_shapeworld.read_record(tmp_path / "models" / "shapeworld") == {
        "motion_v3": {
            "config": config.fingerprint(),
            "steps": config.steps,
            "items_a_step": config.batch_size,
            "seed": config.seed,
            "figures": {"motion": 0.9},
            "seconds": 40,
            "losses": [[10, 3.0], [15, 1.0]],
        }
    }


def test_step_that_is_not_good_enough_stops_the_run(
    tmp_path: Path, trained: Trained
) -> None:
    step = next(step for step in STEPS if step.name == "motion_v3")
    poor = replace(step, test=lambda _family: {"motion": 0.5}, least={"motion": 0.8})
    with pytest.raises(SystemExit, match=r"motion 0.5 < 0.8"):
        train_shapeworld.run(poor, tmp_path, 1)
    assert trained.runs == 1
    assert train_shapeworld.read_record(tmp_path / "models" / "shapeworld") == {}


def test_training_goes_on_from_a_family_and_its_record_is_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        train_shapeworld.subprocess, "run", None
    )  # nothing is trained from here on
    family, work = tmp_path / "family", tmp_path / "work"
    (family / "vae").mkdir(parents=True)
    config = load_config(CONFIGS / "vae.yaml")
    known = {
        "steps": 1200,
        "items_a_step": 32,
        "seed": 7,
        "figures": {"psnr": 31.4159},
        "seconds": 90,
        "losses": [],
    }
    record = {
        name: {"config": config.fingerprint(), **known}
        for name in ("vae", "text_encoder")
    }
    (family / train_shapeworld.RECORD).write_text(json.dumps(record))
    assert (
        train_shapeworld.main(
            ["--go-on", str(family), "--work", str(work), "--until", "text_encoder"]
        )
        == 0
    )
    vae, text_encoder = capsys.readouterr().out.splitlines()
    assert (vae, text_encoder) == (
        "vae: done before",
        "text_encoder: done before, with another config than today's",
    )
    assert {"vae", "tokenizer"} <= {
        place.name for place in (work / "models" / "shapeworld").iterdir()
    }

    monkeypatch.setattr(train_shapeworld, "SHIPPED", family)
    assert train_shapeworld.main(["--table"]) == 0
    assert (
        capsys.readouterr().out.splitlines()[2]
        == "| vae | 1,200 x 32 | 7 | 2 | psnr 31.4 |"
    )
