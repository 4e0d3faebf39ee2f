"""The loop: the same weights however a run is interrupted, shared out or accumulated;
and what it leaves behind.
"""

import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml
from PIL import Image
from small_runs import MakeConfig, small_config
from torch import Tensor

from animatediff.checkpoints.files import read_weights
from animatediff.errors import (
    AssetError,
    CheckpointError,
    ConfigurationError,
    GenerationError,
)
from animatediff.training import checkpoint, command
from animatediff.training.config import TrainConfig, validated
from animatediff.training.learners import Encoders
from animatediff.training.loop import Trainer
from animatediff.training.stages import STAGES
from animatediff.video.clip import Video
from animatediff.video.writers import write_video

ROOT = Path(__file__).parents[2]
TOLERANCE = 2e-6
"""For sums taken in another order, after three steps of at most 1e-3; weights are about
0.1. Adam's eps is 1e-3 there: its usual 1e-8 makes a full step of the sign of a
gradient that is zero but for rounding.
"""
SOLID = {"lr": 1e-3, "eps": 1e-3}


def run(config: TrainConfig) -> dict[str, Any]:
    """Train to the end, or to a signal, and give the last checkpoint."""
    Trainer(config).run()
    return last_state(Path(config.output_dir))


def flat(value: Any, place: str = "") -> dict[str, Any]:
    """Nested tables and lists as one, by their places."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else None
    )
    if items is None:
        return {place: value}
    return {
        key: leaf
        for name, inner in items
        for key, leaf in flat(inner, f"{place}/{name}").items()
    }


def different(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Places in which two states are not equal to the last bit."""
    a, b = flat(first), flat(second)
    assert a.keys() == b.keys()
    return [
        key
        for key in a
        if not (
            torch.equal(a[key], b[key])
            if isinstance(a[key], Tensor)
            else a[key] == b[key]
        )
    ]


def distance(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def interrupt_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Send this process a SIGTERM in the course of a step."""
    whole_step = Trainer._train

    def train_and_signal(self: Trainer, turns: Any) -> Any:
        if self.step == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return whole_step(self, turns)

    monkeypatch.setattr(Trainer, "_train", train_and_signal)


WHOLE: dict[str, Any] = {
    "steps": 3,
    "schedule": {"name": "cosine", "warmup_steps": 1},
    "optimizer": SOLID,
    "data": {"size": 5},  # so that an epoch ends in between
    "checkpoint_every": 100,
}


@pytest.fixture(scope="module")
def unbroken(
    family: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The folder of a run of ``WHOLE``, in one process and without a break."""

    @cache
    def run_whole(stage: str) -> Path:
        folder = tmp_path_factory.mktemp("unbroken") / stage
        run(small_config(stage, family, output_dir=str(folder), **WHOLE))
        return folder

    return run_whole


def last_state(folder: Path) -> dict[str, Any]:
    return checkpoint.read(checkpoint.complete_ones(folder)[-1])


def said_losses(folder: Path) -> dict[int, float]:
    lines = [
        json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_was_stopped_goes_on_as_if_it_was_not(
    stage: str,
    unbroken: Callable[[str], Path],
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, whole = make_config(stage, **WHOLE), unbroken(stage)
    folder = Path(config.output_dir)
    interrupt_after(monkeypatch, 2)
    assert not Trainer(config).run()
    assert not (folder / "export").exists()
    assert Trainer(config).run()
    assert different(last_state(whole), last_state(folder)) == []
    files = [
        path.relative_to(folder) for path in (folder / "export").rglob("*.safetensors")
    ]
    assert files
    for file in files:
        assert different(read_weights(folder / file), read_weights(whole / file)) == []
    losses = said_losses(folder)
    assert list(losses) == [1, 3]  # nothing is said of the step that a signal ends
    assert losses == {
        step: loss for step, loss in said_losses(whole).items() if step != 2
    }


@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_batch(
    unbroken: Callable[[str], Path], make_config: MakeConfig, tmp_path: Path
) -> None:
    configs = [tmp_path / f"{stage}.yaml" for stage in STAGES]
    for path in configs:
        half = make_config(
            path.stem, output_dir=str(tmp_path / path.stem), batch_size=1, **WHOLE
        )
        path.write_text(yaml.safe_dump(half.model_dump(mode="json")))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--local-addr",
        "127.0.0.1",
    ]
    message = tmp_path / "said.txt"
    with message.open("w") as stderr:
        ended = subprocess.run(
            [
                *command,
                "--nproc-per-node",
                "2",
                str(Path(__file__).with_name("two_processes.py")),
                *map(str, configs),
            ],
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": str(ROOT),
                "GLOO_SOCKET_IFNAME": "lo",
            },
            stderr=stderr,
            check=False,
        )
    assert ended.returncode == 0, message.read_text()
    assert "(1 x 1 turns x 2 processes)" in message.read_text()
    for stage in STAGES:
        one, two = last_state(unbroken(stage)), last_state(tmp_path / stage)
        assert distance(one["trained"], two["trained"]) < TOLERANCE, stage
        assert distance(one["ema"]["average"], two["ema"]["average"]) < TOLERANCE, stage
        assert said_losses(unbroken(stage)) == pytest.approx(
            said_losses(tmp_path / stage), rel=1e-4
        ), stage


@pytest.mark.slow
def test_accumulation_is_a_larger_batch(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    changes = {
        "steps": 2,
        "optimizer": SOLID,
        "loss": {"object_weight": 3.0, "stratified": True},
    }
    whole = run(
        make_config("lora", output_dir=str(tmp_path / "8"), batch_size=8, **changes)
    )
    split = make_config(
        "lora",
        output_dir=str(tmp_path / "2x4"),
        batch_size=2,
        gradient_accumulation_steps=4,
        **changes,
    )
    parts = run(split)
    assert distance(whole["trained"], parts["trained"]) < TOLERANCE
    assert distance(whole["ema"]["average"], parts["ema"]["average"]) < TOLERANCE


@pytest.mark.slow
def test_kept_latents_are_the_same_latents(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = {"enabled": True, "folder": str(tmp_path / "latents")}
    scribble = {
        "model": {"control": "scribble"},
        "loss": {"object_weight": 1.0},
        "steps": 1,
    }
    anew = run(make_config("sparsectrl", output_dir=str(tmp_path / "anew"), **scribble))
    first = run(
        make_config(
            "sparsectrl",
            output_dir=str(tmp_path / "first"),
            latent_cache=cache,
            **scribble,
        )
    )
    monkeypatch.setattr(Encoders, "moments", None)  # nothing is encoded from here on
    second = run(
        make_config(
            "sparsectrl",
            output_dir=str(tmp_path / "second"),
            latent_cache=cache,
            **scribble,
        )
    )
    for state in (first, second):
        assert different(anew["trained"], state["trained"]) == []


@pytest.mark.slow
def test_readers_beside_the_trainer_change_nothing(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = run(make_config("vae", output_dir=str(tmp_path / "here")))
    whole_step = Trainer._train

    def train_and_signal(
        self: Trainer, turns: Any
    ) -> Any:  # as a launcher does that ends a run
        for child in psutil.Process().children():
            child.terminate()
        return whole_step(self, turns)

    monkeypatch.setattr(Trainer, "_train", train_and_signal)
    neighbours = run(
        make_config("vae", output_dir=str(tmp_path / "beside"), data={"workers": 1})
    )
    assert different(here["trained"], neighbours["trained"]) == []


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with two clips, two pictures, their captions, and of each kind one that
    cannot be read.
    """
    folder = tmp_path / "files"
    folder.mkdir()
    for name in ("a", "b"):
        frames = np.random.default_rng(0).integers(
            0, 255, (6, 64, 72, 3), dtype=np.uint8
        )
        write_video(Video(frames, 8), folder / f"{name}.mp4", format="mp4", metadata={})
        Image.fromarray(frames[0]).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text("a red circle")
    for suffix in ("mp4", "png", "txt"):
        (folder / f"broken.{suffix}").write_bytes(b"nothing")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "kind"), [("motion", "clips"), ("lora", "clips"), ("lora", "pictures")]
)
def test_files(
    stage: str,
    kind: str,
    make_config: MakeConfig,
    files: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    changed = make_config(stage, steps=2).model_dump(mode="json")
    data = {
        "kind": kind,
        "root": str(files),
        "num_frames": 2,
        "stride": 2,
        "width": 64,
        "height": 64,
    }
    config = validated({**changed, "data": {**data, "max_broken": 0.5}})
    run(config)
    assert (
        f"1 files cannot be read so far: broken.{'mp4' if kind == 'clips' else 'png'}"
        in caplog.text
    )
    with pytest.raises(AssetError, match="max_broken"):
        run(
            validated(
                {**changed, "data": {**data, "max_broken": 0.0}, "resume": "never"}
            )
        )


def test_pictures_do_not_move(make_config: MakeConfig, files: Path) -> None:
    changed = make_config("motion").model_dump(mode="json")
    with pytest.raises(
        ConfigurationError, match="data.kind: the stage motion cannot use pictures"
    ):
        Trainer(
            validated({**changed, "data": {"kind": "pictures", "root": str(files)}})
        )


@pytest.mark.slow
@pytest.mark.usefixtures("pictures_of_the_loss")
def test_what_a_run_leaves_behind(make_config: MakeConfig) -> None:
    prompt = "a red circle on a black background, moving left"
    config = make_config(
        "motion",
        steps=3,
        batch_size=1,
        checkpoint_every=1,
        keep=2,
        precision="bf16",
        validation={
            "prompts": [prompt],
            "seeds": [3],
            "every": 2,
            "steps": 1,
            "guidance": 1.0,
        },
    )
    run(config)
    folder = Path(config.output_dir)
    lines = [
        json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert set(lines[0]) == {"step", "loss", "lr", "grad_norm", "seconds_per_step"}
    assert [path.name for path in checkpoint.complete_ones(folder)] == [
        "step-0000002",
        "step-0000003",
    ]
    assert (
        folder / "checkpoints" / "step-0000002" / "export" / "motion_module.safetensors"
    ).is_file()
    with Image.open(folder / "loss.png") as picture:
        assert picture.size == (800, 450)
    assert list((folder / "tensorboard").iterdir())
    assert [path.parent.name for path in sorted(folder.rglob("0-3.gif"))] == [
        "step-0000002",
        "step-0000003",
    ]
    with Image.open(folder / "validation" / "step-0000003" / "0-3.gif") as clip:
        assert getattr(clip, "n_frames", 1) == 2
    assert validated(yaml.safe_load((folder / "config.yaml").read_text())) == config


@pytest.mark.slow
def test_scribbles_are_shown_in_validation(make_config: MakeConfig) -> None:
    validation = {"prompts": ["a circle"], "steps": 1, "guidance": 1.0}
    for kind in ("scribble", "rgb"):
        config = make_config(
            "sparsectrl",
            model={"control": kind},
            steps=1,
            validation=validation,
            resume="never",
        )
        run(config)
        assert (
            Path(config.output_dir) / "validation" / "step-0000001" / "0-0.gif"
        ).is_file()


def test_numbers_that_went_wrong_end_a_run(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = "animatediff.training.encoder_learners.edge_weights"
    monkeypatch.setattr(broken, lambda pixels: pixels[:, :1] * float("nan"))
    with pytest.raises(GenerationError, match="not finite at step 1"):
        run(make_config("vae"))


@pytest.mark.slow
def test_checkpoints_of_other_runs(
    make_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config("vae", steps=1)
    run(config)
    (last,) = checkpoint.complete_ones(Path(config.output_dir))
    with pytest.raises(CheckpointError, match="a checkpoint of the stage vae"):
        Trainer(make_config("lora"))
    with pytest.raises(CheckpointError, match="other weights"):
        Trainer(make_config("vae", model={"vae": {"block_out_channels": [8, 8, 8, 8]}}))
    with pytest.raises(ConfigurationError, match="resume: there is no checkpoint"):
        Trainer(make_config("vae", resume=str(tmp_path / "nowhere")))
    assert Trainer(make_config("vae", steps=2, resume=str(last))).step == 1
    assert Trainer(make_config("vae", steps=2, resume="never")).step == 0
    Trainer(make_config("vae", steps=2, optimizer={"lr": 5e-4}))
    assert "optimizer.lr" in caplog.text
    (last / checkpoint.STATE).write_bytes(b"cut short")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Trainer(config)


def test_what_a_killed_process_left_is_no_checkpoint(make_config: MakeConfig) -> None:
    folder = Path(make_config("vae").output_dir)
    part = checkpoint.begin(folder, 7)
    (part / checkpoint.STATE).write_bytes(b"half")
    assert checkpoint.complete_ones(folder) == []
    checkpoint.finish(part, keep=1)
    assert [path.name for path in checkpoint.complete_ones(folder)] == ["step-0000007"]


@pytest.mark.slow
def test_the_command(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "vae.yaml"
    path.write_text(yaml.safe_dump(make_config("vae").model_dump(mode="json")))
    config = ["--config", str(path)]
    assert command.main([*config, "optimizer.rl=1"]) == 1
    assert "optimizer.rl: no such key; did you mean lr?" in capsys.readouterr().err
    assert command.main([*config, "model.base=nowhere", "model.vae=null"]) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert command.main([*config, "steps=1", "precision=fp16"]) == 1
    assert "fp16 needs a GPU" in capsys.readouterr().err
    assert command.main([*config, "data.source=nowhere:Films"]) == 1
    assert "CONFIGURATION: data.source: got 'nowhere:Films'" in capsys.readouterr().err
    assert command.main([*config, "steps=1"]) == 0
    assert (tmp_path / "run" / "export" / "vae" / "config.json").is_file()


def test_the_command_reports_that_it_was_stopped(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "vae.yaml"
    path.write_text(yaml.safe_dump(make_config("vae").model_dump(mode="json")))
    interrupt_after(monkeypatch, 1)
    assert command.main(["--config", str(path)]) == command.STOPPED


def test_train_py_is_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", "nowhere.yaml"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    assert ended.value.code == 1
    assert "nowhere.yaml cannot be read" in capsys.readouterr().err


def test_a_source_may_be_in_the_folder_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "films_for_a_test.py").write_text(
        "from lab.shapeworld.source import World\n\n\nclass Films(World): ...\n"
    )
    (tmp_path / "config.yaml").write_text(
        "{stage: vae, output_dir: o, steps: 1,"
        " data: {source: 'films_for_a_test:Films', size: 0}}"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert command.main(["--config", "config.yaml"]) == 1
    assert "films_for_a_test" in sys.modules
