"""A field that is declared in a copy of the tree reaches every other place."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from animatediff.settings import PROJECT_ROOT

NEXT = "    @property\n    def megapixel_steps(self)"
FIELD = (
    '    shine: Annotated[float, Shown("sampling"),'
    ' Field(ge=0, le=1, description="How shiny.")] = 0.5\n\n'
)
CHECK = """
import sys, threading
from pathlib import Path
from urllib.parse import urlsplit

import animatediff
from animatediff.cli import make
from animatediff.cli.prompt_config import read_entries, requests
from animatediff.engine import Engine
from animatediff.errors import InvalidRequest
from animatediff.progress import ignore
from animatediff.serving.job import JobRunner
from animatediff.serving.storage import LocalStorage
from animatediff.settings import Settings
from animatediff.video import read_metadata
from schemas import JobInput, JobOutput, parse_job_input, render_job_output
from scripts.tables import job_fields_table

assert Path(animatediff.__file__).is_relative_to(Path.cwd())
models, folder = map(Path, sys.argv[1:])
schema = JobInput.model_json_schema()["properties"]["shine"]
assert (schema["minimum"], schema["maximum"], schema["default"]) == (0, 1, 0.5), schema
assert JobOutput.model_json_schema()["properties"]["shine"]["type"] == "number"

job = {"prompt": "a", "num_frames": 2, "num_inference_steps": 1, "shine": 0.25}
assert parse_job_input(job).shine == 0.25
assert parse_job_input({"prompt": "a"}).shine == 0.5
try:
    parse_job_input({"prompt": "a", "shine": 2.0})
except InvalidRequest as error:
    assert error.message == "shine: got 2.0, allowed: a finite number from 0 to 1"
else:
    raise AssertionError("out of bounds")

settings = Settings(models_dir=models, device="cpu")
engine = Engine(settings)
assert engine.resolve(parse_job_input(job)).shine == 0.25

storage = LocalStorage(folder)
runner = JobRunner(engine, storage, settings, parse_job_input, render_job_output)
output = runner.run({"id": "j", "input": job}, ignore, threading.Event())
assert output["shine"] == 0.25, output
file = Path(urlsplit(output["url"]).path)
assert read_metadata(file)["request"]["shine"] == 0.25

config = folder / "config.yaml"
config.write_text("- {prompt: a, shine: 0.75}")
(entry,) = read_entries(config)
(request,) = requests(entry, "entry 0")
assert request.shine == 0.75

options = make._parser("make").parse_args(["a", "--shine", "0.75"])
assert parse_job_input(make.job_input(options)).shine == 0.75
assert "How shiny." in make._parser("make").format_help()

row = "| `shine` | How shiny. | a finite number from 0 to 1 | 0.5 |"
assert row in job_fields_table()
print("every place has it")
"""


@pytest.mark.slow
def test_a_field_is_declared_once(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("animatediff", "schemas", "scripts"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT_ROOT / name, tree / name, ignore=ignored)
    declaration = tree / "animatediff" / "job" / "clip.py"
    source = declaration.read_text(encoding="utf-8")
    assert source.count(NEXT) == 1
    declaration.write_text(source.replace(NEXT, FIELD + NEXT), encoding="utf-8")
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", CHECK]
    places = [str(PROJECT_ROOT / "models"), str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *places], cwd=tree, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("every place has it\n")
