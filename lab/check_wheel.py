"""Build sdist and wheel, install the wheel into an empty environment, use it there.

``python -m lab.check_wheel``: the wheel is built from the sdist, and the sdist from the
files that git knows or would add. Dependencies come from this environment, so nothing
is downloaded. Every module is imported from another folder; ``animatediff make`` makes
a clip with the embedded family, and ``animatediff serve`` answers a job.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("animatediff", "schemas")
BUILD_SDIST = "from setuptools import build_meta; build_meta.build_sdist('dist')"
CLIP = ("--num-frames", "4", "--num-inference-steps", "2", "--seed", "5")
JOB = {"prompt": "a red circle", "num_frames": 4, "num_inference_steps": 2, "seed": 5}
START_SECONDS = 60


def source_files() -> list[str]:
    """Paths of a clean checkout with the edits of this one."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    paths = _output_of(command, ROOT).splitlines()
    return [path for path in paths if (ROOT / path).is_file()]


def expected_files() -> set[str]:
    """What the wheel has to hold, apart from its own dist-info folder."""
    return {path for path in source_files() if path.split("/")[0] in PACKAGES}


def build(folder: Path) -> tuple[Path, Path]:
    """Build the sdist, and the wheel from it. Return the paths of both."""
    source = folder / "source"
    for path in source_files():
        target = source / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, target)
    _output_of([sys.executable, "-c", BUILD_SDIST], source)
    (sdist,) = (source / "dist").glob("*.tar.gz")
    options = ("--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir")
    pip = [sys.executable, "-m", "pip", "wheel", *options, str(folder / "wheel")]
    _output_of([*pip, str(sdist)], folder)
    (wheel,) = (folder / "wheel").glob("*.whl")
    return sdist, wheel


def wheel_files(wheel: Path) -> set[str]:
    """The names in a wheel, apart from its dist-info folder."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def install(wheel: Path, folder: Path) -> Path:
    """Install ``wheel`` into a new environment. Return the folder of its commands.

    A .pth file lends it the dependencies of this environment.
    """
    _output_of([sys.executable, "-m", "venv", "--without-pip", str(folder)], ROOT)
    purelib = sysconfig.get_path("purelib", "venv", vars={"base": str(folder)})
    borrowed = sysconfig.get_path("purelib")
    (Path(purelib) / "borrowed.pth").write_text(f"{borrowed}\n", encoding="utf-8")
    python = str(folder / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", python, "install"]
    _output_of([*pip, "--quiet", "--no-deps", str(wheel)], ROOT)
    return folder / "bin"


def import_all(commands: Path, modules: Sequence[str], folder: Path) -> None:
    """Import every module in the new environment, from another folder."""
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "print(sys.modules['animatediff'].__file__)"
    )
    python = str(commands / "python")
    place = _output_of([python, "-I", "-c", code, *modules], folder).strip()
    if not Path(place).is_relative_to(commands.parent):
        raise SystemExit(f"imported {place}, not the installed package")


def modules_of(files: set[str]) -> list[str]:
    """Names of the modules among ``files``; programs (__main__) are left out."""
    paths = (Path(name).with_suffix("") for name in files if name.endswith(".py"))
    names = (".".join(path.parts) for path in paths if path.name != "__main__")
    return sorted(name.removesuffix(".__init__") for name in names)


def make_clip(commands: Path, folder: Path) -> str:
    """Make a clip by ``animatediff make``. Return the path that it prints."""
    command = [str(commands / "animatediff"), "make", "a red circle, moving right"]
    text = _output_of([*command, *CLIP, "--output", "clips"], folder, _environment())
    path = text.strip()
    if not (folder / path).stat().st_size:
        raise SystemExit(f"{path} is empty")
    return path


def serve_job(commands: Path, folder: Path) -> str:
    """Post a job to ``animatediff serve``. Return the status of the answer."""
    with _service(commands, folder) as url:
        body = json.dumps({"input": JOB}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{url}/runsync", body, headers)
        with urllib.request.urlopen(request, timeout=120) as reply:
            answer = json.load(reply)
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
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"animatediff serve did not start:\n{log.read_text()}")


def _environment() -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ANIMATEDIFF_", "BUCKET_", "RUNPOD_", "PYTHON"))
    }
    models = {"ANIMATEDIFF_MODELS_DIR": str(ROOT / "models")}
    return kept | models | {"ANIMATEDIFF_DEFAULT_MODEL": "shapeworld"}


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
        sdist, wheel = build(folder)
        for path in (sdist, wheel):
            print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")
        files = wheel_files(wheel)
        if different := sorted(files ^ expected_files()):
            raise SystemExit(f"wheel and packages differ in {', '.join(different)}")
        commands = install(wheel, folder / "environment")
        elsewhere = folder / "elsewhere"
        elsewhere.mkdir()
        modules = modules_of(files)
        import_all(commands, modules, elsewhere)
        print(f"{len(modules)} modules import")
        print(f"animatediff make: {make_clip(commands, elsewhere)}")
        print(f"animatediff serve: {serve_job(commands, elsewhere)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
