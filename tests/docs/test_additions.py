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
TABLE_TESTS = (
    "tests/test_schemas.py",
    "tests/test_openapi.py",
    "tests/test_catalog.py",
    "tests/checkpoints/test_detect.py",
    "tests/docs/test_docs.py::test_the_output_is_an_output",
    "tests/job/test_clip.py",
    "tests/sampling/test_denoise.py",
    "tests/sampling/test_schedulers.py",
    "tests/video/test_formats.py",
    "tests/video/test_grid.py",
    "tests/test_fields_reach_the_model.py::test_every_field_has_a_row",
)
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


assert output(scheduler="dpmpp_3m")["scheduler"] == "dpmpp_3m"
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
    """The row of a test, which a job field takes too, is no place in the code."""
    files = [[file for file, _, _ in places(diff)] for diff in diffs()]
    counts = [sum(not file.startswith("tests/") for file in each) for each in files]
    assert len(counts) == 4
    assert all(1 <= count <= MOST_PLACES for count in counts)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with all four additions."""
    tree = tmp_path_factory.mktemp("tree")
    copied = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    for name in filter(None, copied.stdout.decode().split("\0")):
        if not name.startswith("models/"):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    (tree / "models").symlink_to(ROOT / "models")
    for diff in diffs():
        for file, before, after in places(diff):
            edit(tree / file, before, after)
    run_in(tree, "-m", "schemas.generate")
    run_in(tree, "-m", "scripts.tables")
    return tree


def run_in(tree: Path, *arguments: str) -> str:
    """Run Python on the copy's code; return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_additions_act(tree: Path, tmp_path: Path) -> None:
    output = run_in(tree, "-c", PROBE, str(ROOT / "models"), str(tmp_path))
    assert output.endswith("all four act\n")


@pytest.mark.slow
def test_the_tables_tests_accept_the_additions(tree: Path) -> None:
    """Each derives from its table, or has the row that the diff adds."""
    run_in(tree, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TABLE_TESTS)


def edit(path: Path, before: str, after: str) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.count(before) == 1, f"{path.name} has changed: {before}"
    path.write_text(source.replace(before, after), encoding="utf-8")
