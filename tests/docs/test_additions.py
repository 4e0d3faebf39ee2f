"""ARCHITECTURE.md tells the truth: what is where, and what an addition takes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks
from tests.test_rooms import LEVELS

ARCHITECTURE = ROOT / "ARCHITECTURE.md"
MOST_PLACES = 2
PROBE = """
import sys
import threading
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import torch

from animatediff.checkpoints.detect import detect
from animatediff.engine import Engine
from animatediff.progress import ignore
from animatediff.serving.job import JobRunner
from animatediff.serving.storage import LocalStorage
from animatediff.settings import Settings
from animatediff.video import read_metadata
from schemas import parse_job_input, render_job_output

models, folder = map(Path, sys.argv[1:])
settings = Settings(models_dir=models, default_model="shapeworld")
storage = LocalStorage(folder)
runner = JobRunner(
    Engine(settings), storage, settings, parse_job_input, render_job_output
)
SMALL = {"prompt": "a red circle", "seed": 1, "num_frames": 3}


def output(**fields):
    job = {**SMALL, "num_inference_steps": 2, **fields}
    answer = runner.run({"id": "probe", "input": job}, ignore, threading.Event())
    assert "error" not in answer, answer
    return answer


def file_of(made):
    return Path(urlsplit(made["url"]).path)


def pictures(made):
    with zipfile.ZipFile(file_of(made)) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        return [archive.read(name) for name in names]


assert output(scheduler="deis")["scheduler"] == "deis"
made = output(format="mkv")
assert made["mime"] == "video/x-matroska"
assert read_metadata(file_of(made))["request"]["format"] == "mkv"
forth, back = output(format="png_zip"), output(format="png_zip", reverse=True)
assert back["reverse"] is True
assert pictures(forth) == pictures(back)[::-1]
assert detect({"image_proj.proj.weight": torch.zeros(1)}).kind == "IP-Adapter"
print("all four act")
"""


def test_the_list_of_rooms_is_complete_and_in_order() -> None:
    (rooms,) = [text for text in blocks(ARCHITECTURE, "text") if "engine.py" in text]
    listed = re.findall(r"^  (\w+)(?:\.py|/) ", rooms, re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == LEVELS.keys()
    levels = [LEVELS[room] for room in listed]
    assert levels == sorted(levels)


def places(diff: str) -> list[tuple[str, str, str]]:
    """The places that a diff edits: file, lines before, lines after."""
    edits: list[tuple[str, str, str]] = []
    for part in re.split(r"^\+\+\+ ", diff, flags=re.MULTILINE)[1:]:
        file, *lines = part.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] != "+")
        after = "".join(line[1:] for line in lines if line[0] != "-")
        edits.append((file.strip(), before, after))
    return edits


def diffs() -> list[str]:
    return blocks(ARCHITECTURE, "diff")


def test_an_addition_takes_at_most_two_places() -> None:
    counts = [len(places(diff)) for diff in diffs()]
    assert len(counts) == 4
    assert all(1 <= count <= MOST_PLACES for count in counts)


@pytest.mark.slow
def test_the_additions_act(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("animatediff", "schemas"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    for diff in diffs():
        for file, before, after in places(diff):
            edit(tree / file, before, after)
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", PROBE, str(ROOT / "models"), str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all four act\n")


def edit(path: Path, before: str, after: str) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.count(before) == 1, f"{path.name} has changed: {before}"
    path.write_text(source.replace(before, after), encoding="utf-8")
