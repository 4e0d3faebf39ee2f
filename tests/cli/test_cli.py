"""The ``animatediff`` command: its subcommands, errors and options."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from animatediff import __version__, cli
from animatediff.cli import make
from animatediff.errors import InvalidRequest
from animatediff.job.clip import GenerationRequest
from animatediff.settings import PROJECT_ROOT
from animatediff.video import read_metadata

SMALL = ["--num-frames", "4", "--num-inference-steps", "2", "--seed", "5"]
HEAVY = ("torch", "numpy", "pydantic", "runpod", "yaml")


def python(code: str) -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from animatediff import cli\n"
        "try: cli.main(['--help'])\n"
        f"except SystemExit: print([n for n in {HEAVY} if n in sys.modules])"
    )
    assert python(code).endswith("[]\n")


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    shown = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert name in shown
        assert command.summary in shown


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0
    assert f"usage: animatediff {name}" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"animatediff {__version__}\n"


def test_unknown_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["bake"])
    assert ended.value.code == 2
    assert "'bake'" in capsys.readouterr().err


def test_interruption_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_arguments: list[str], _prog: str) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(make, "main", interrupted)
    assert cli.main(["make", "a red circle"]) == 130


def test_inspect_describes_each_file(capsys: pytest.CaptureFixture[str]) -> None:
    family = PROJECT_ROOT / "models" / "shapeworld"
    files = [family / "style_lora.safetensors", family / "missing.safetensors"]
    assert cli.main(["inspect", *map(str, files)]) == 1
    out, err = capsys.readouterr()
    assert "kind       LoRA" in out
    assert err.startswith("ASSET")
    assert err.count("\n") == 1


def parsed(*words: str) -> dict[str, object]:
    return make.job_input(make._parser("make").parse_args(words))


def test_every_field_of_a_job_is_an_option(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["make", "--help"])
    shown = capsys.readouterr().out
    for name in GenerationRequest.model_fields:
        assert name == "prompt" or make.option(name) in shown


def test_options_become_fields_of_the_job() -> None:
    loras = [{"path": "a.safetensors", "strength": 0.5}]
    words = ["a red circle", *SMALL, "--guidance-scale", "4.5", "--format", "gif"]
    words += ["--loras", json.dumps(loras), "--model", "123", "--vae", "null"]
    assert parsed(*words) == {
        "prompt": "a red circle",
        "num_frames": 4,
        "num_inference_steps": 2,
        "seed": 5,
        "guidance_scale": 4.5,
        "format": "gif",
        "loras": loras,
        "model": "123",
        "vae": "null",
    }


@pytest.mark.parametrize("wrapped", [True, False])
def test_options_take_precedence_over_the_job(tmp_path: Path, wrapped: bool) -> None:
    fields = {"prompt": "a red circle", "seed": 1, "fps": 4}
    file = tmp_path / "job.json"
    file.write_text(json.dumps({"input": fields} if wrapped else fields))
    job = parsed("--job", str(file), "--seed", "2")
    assert job == {**fields, "seed": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "No such file"), ("{", "JSON"), ("[1]", "a JSON object")],
)
def test_unreadable_job_is_named(
    tmp_path: Path, text: str | None, message: str
) -> None:
    file = tmp_path / "job.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InvalidRequest, match=message):
        parsed("--job", str(file))


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (["a red circle", "--num-frames", "many"], "num_frames"),
        (["a red circle", "--width", "63"], "width"),
        ([], "prompt"),
    ],
)
def test_wrong_value_is_one_line(
    words: list[str], field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["make", *words]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"INVALID_REQUEST: {field}")
    assert err.count("\n") == 1


def test_missing_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANIMATEDIFF_MODELS_DIR", str(tmp_path))
    assert cli.main(["make", "a red circle"]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert err.split(":")[0].isupper()


@pytest.mark.slow
def test_make_prints_the_path_of_the_clip(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = str(PROJECT_ROOT / "models")
    monkeypatch.setenv("ANIMATEDIFF_MODELS_DIR", models)
    monkeypatch.setenv("ANIMATEDIFF_DEFAULT_MODEL", "shapeworld")
    monkeypatch.chdir(tmp_path)
    began = time.time()
    words = ["a red circle, moving right", *SMALL, "--output", "clips"]
    assert cli.main(["make", *words]) == 0
    out, err = capsys.readouterr()
    path = Path(out.strip())
    assert path.parent == Path("clips")
    assert path.name.startswith("a-red-circle-moving-right-")
    assert path.stat().st_mtime >= began - 2
    assert "4 frames of 64x64, seed 5" in err
    assert "denoise" in err
    assert read_metadata(path)["request"]["seed"] == 5


def test_options_parser_does_not_abbreviate() -> None:
    parser: argparse.ArgumentParser = make._parser("make")
    with pytest.raises(SystemExit):
        parser.parse_args(["a red circle", "--num", "4"])
