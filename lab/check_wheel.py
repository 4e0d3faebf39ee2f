"""Build sdist and wheel, install the wheel into an empty environment, use it there.

``python -m lab.check_wheel``: the wheel is built from the sdist, and the sdist from the
files that git knows or would add. pip resolves the wheel's own dependencies, each at
the version of ``requirements.txt``. Every module of the product is imported from
another folder; ``animatediff make`` makes a clip with the embedded family, and
``animatediff serve`` answers a job.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import requests

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("animatediff", "schemas")
PAGE = Path("animatediff/app/page")
BUILD_SDIST = "from setuptools import build_meta; build_meta.build_sdist('dist')"
CLIP = ("--num-frames", "4", "--num-inference-steps", "2", "--seed", "5")
JOB = {"prompt": "a red circle", "num_frames": 4, "num_inference_steps": 2, "seed": 5}
START_SECONDS = 60
OPTIONAL = ("accelerate", "peft", "triton")
"""Packages that the wheel does not ask for: of training, and of torch's CUDA builds."""
USES_OPTIONAL = ("animatediff.training.", "animatediff.kernels.")
IMPORT = """
import importlib, sys
cut = sys.argv.index("--")
optional, modules = sys.argv[1:cut], sys.argv[cut + 1:]
waiting = []
for name in modules:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in optional:
            raise
        waiting.append(name)
print(sys.modules["animatediff"].__file__, *waiting, sep="\\n")
"""


def source_files() -> list[str]:
    """Return the paths of a clean checkout with the edits of this one."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    paths = _output_of(command, ROOT).splitlines()
    return [path for path in paths if (ROOT / path).is_file()]


def expected_files() -> set[str]:
    """Return the names that the wheel has to hold, apart from its dist-info folder."""
    folders = tuple(f"{package}/" for package in PACKAGES)
    return {path for path in source_files() if path.startswith(folders)}


def build(folder: Path) -> tuple[Path, Path]:
    """Build the sdist, and the wheel from it. Return the paths of both."""
    source, output = folder / "source", folder / "wheel"
    _copy_source(source)
    _output_of([sys.executable, "-c", BUILD_SDIST], source)
    (sdist,) = (source / "dist").glob("*.tar.gz")
    options = ["--no-deps", "--no-build-isolation", "--quiet"]
    place = ["--wheel-dir", str(output)]
    pip = [sys.executable, "-m", "pip", "wheel"]
    _output_of([*pip, *options, *place, str(sdist)], folder)
    (wheel,) = output.glob("*.whl")
    return sdist, wheel


def _copy_source(folder: Path) -> None:
    for path in source_files():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, target)


def wheel_files(wheel: Path) -> set[str]:
    """Return the names in a wheel, apart from its dist-info folder."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    return {name for name in names if ".dist-info/" not in name}


def install(wheel: Path, folder: Path) -> Path:
    """Install ``wheel`` and its dependencies into a new environment.

    Return the folder of its commands.
    """
    commands = folder / "bin"
    _output_of([sys.executable, "-m", "venv", "--without-pip", str(folder)], ROOT)
    pip = [sys.executable, "-m", "pip", "--python", str(commands / "python")]
    options = ["install", "--quiet", "--constraint", str(ROOT / "requirements.txt")]
    _output_of([*pip, *options, str(wheel)], ROOT)
    return commands


def import_all(commands: Path, modules: Sequence[str], folder: Path) -> list[str]:
    """Import every module in the new environment, from another folder.

    Return those that need a package of ``OPTIONAL``, which is not installed there.
    """
    command = [str(commands / "python"), "-I", "-c", IMPORT, *OPTIONAL, "--", *modules]
    place, *waiting = _output_of(command, folder).splitlines()
    if not Path(place).is_relative_to(commands.parent):
        raise SystemExit(f"imported {place}, not the installed package")
    others = [name for name in waiting if not name.startswith(USES_OPTIONAL)]
    if others:
        raise SystemExit(f"these need a package of an extra: {', '.join(others)}")
    return waiting


def modules_of(files: set[str]) -> list[str]:
    """Return the names of the modules among ``files``.

    Without programs (__main__), and without the page: Gradio is not installed here.
    """
    sources = (Path(name) for name in files if name.endswith(".py"))
    modules = (
        path
        for path in sources
        if path.stem != "__main__" and not path.is_relative_to(PAGE)
    )
    return sorted(_module_name(path) for path in modules)


def _module_name(path: Path) -> str:
    name = ".".join(path.with_suffix("").parts)
    return name.removesuffix(".__init__")


def make_clip(commands: Path, folder: Path) -> str:
    """Make a clip by ``animatediff make``. Return the path that it prints."""
    command = [str(commands / "animatediff"), "make", "a red circle, moving right"]
    command += [*CLIP, "--output", "clips"]
    path = _output_of(command, folder, _environment()).strip()
    if not (folder / path).stat().st_size:
        raise SystemExit(f"{path} is empty")
    return path


def serve_job(commands: Path, folder: Path) -> str:
    """Post a job to ``animatediff serve``. Return the status of the answer."""
    with _service(commands, folder) as url:
        reply = requests.post(f"{url}/runsync", json={"input": JOB}, timeout=120)
        reply.raise_for_status()
        answer = reply.json()
    if answer["status"] != "COMPLETED":
        raise SystemExit(f"the served job ended with {answer}")
    return answer["status"]


@contextmanager
def _service(commands: Path, folder: Path) -> Iterator[str]:
    port = _free_port()
    command = [str(commands / "animatediff"), "serve", "--port", str(port)]
    with (folder / "serve.log").open("w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=_environment(), stdout=log, stderr=log
        )
        try:
            _wait_for(port, process, folder / "serve.log")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=30)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        if _is_open(port):
            return
        time.sleep(0.1)
    raise SystemExit(f"animatediff serve did not start:\n{log.read_text()}")


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _environment() -> dict[str, str]:
    dropped = ("ANIMATEDIFF_", "BUCKET_", "RUNPOD_", "PYTHON")
    return {
        **{
            key: text for key, text in os.environ.items() if not key.startswith(dropped)
        },
        "ANIMATEDIFF_MODELS_DIR": str(ROOT / "models"),
        "ANIMATEDIFF_DEFAULT_MODEL": "shapeworld",
    }


def _output_of(
    command: Sequence[str], folder: Path, env: Mapping[str, str] | None = None
) -> str:
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        shown = " ".join(command)[:200]
        raise SystemExit(f"{shown}\nended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def main() -> int:
    """Run all checks, each with a line. Raises SystemExit at the first failure."""
    with tempfile.TemporaryDirectory(prefix="animatediff-wheel-") as name:
        folder = Path(name)
        archives = build(folder)
        for path in archives:
            size = path.stat().st_size / 1e3
            print(f"{path.name}: {size:.0f} kB")
        _, wheel = archives
        files = wheel_files(wheel)
        differences = sorted(files ^ expected_files())
        if differences:
            raise SystemExit(f"wheel and packages differ in {', '.join(differences)}")
        commands = install(wheel, folder / "environment")
        elsewhere = folder / "elsewhere"
        elsewhere.mkdir()
        modules = modules_of(files)
        waiting = import_all(commands, modules, elsewhere)
        count = len(modules) - len(waiting)
        print(f"{count} modules import; {len(waiting)} need {', '.join(OPTIONAL)}")
        print(f"animatediff make: {make_clip(commands, elsewhere)}")
        print(f"animatediff serve: {serve_job(commands, elsewhere)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
