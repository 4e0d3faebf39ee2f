"""The files of the image, the Hub and the workflows agree with the code."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from animatediff import catalog, settings
from animatediff.catalog.files import read_files
from animatediff.settings import Settings
from schemas import parse_job_input
from scripts.lock import LOCKS, pins

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
BAKE = (ROOT / "docker-bake.hcl").read_text()
HUB = json.loads((ROOT / ".runpod/hub.json").read_text())
HUB_TESTS = json.loads((ROOT / ".runpod/tests.json").read_text())
WORKFLOWS = {
    path.name: yaml.safe_load(path.read_text())
    for path in (ROOT / ".github/workflows").iterdir()
}
VARIABLES = {**settings.VARIABLES, **settings.BUCKET_VARIABLES}
PROFILES = set(read_files().profiles)


def instructions() -> list[tuple[str, str]]:
    """Return (instruction, arguments) in order.

    Continued lines are joined and comments left out.
    """
    lines = "\n".join(
        line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#")
    )
    joined = re.sub(r"\\\n\s*", " ", lines)
    return [
        (name, rest.strip())
        for name, _, rest in (
            line.partition(" ") for line in joined.splitlines() if line
        )
    ]


def stage(name: str) -> list[tuple[str, str]]:
    stages: dict[str, list[tuple[str, str]]] = {}
    current = ""
    for word, rest in instructions():
        if word == "FROM":
            current = rest.partition(" AS ")[2]
        stages.setdefault(current, []).append((word, rest))
    return stages[name]


def environment() -> dict[str, str]:
    lines = " ".join(rest for word, rest in stage("worker") if word == "ENV")
    return dict(re.findall(r"(\w+)=(\S+)", lines))


def test_memory_of_the_gpu_grows_in_place() -> None:
    """By the name that torch 2.9 introduced."""
    assert environment()["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"


def hub_inputs() -> dict[str, dict[str, Any]]:
    return {entry["key"]: entry["input"] for entry in HUB["config"]["env"]}


def is_known(variable: str) -> bool:
    return variable in VARIABLES or variable in environment()


def test_every_stage_has_the_same_base() -> None:
    assert instructions()[0] == ("ARG", "BASE_IMAGE=python:3.11-slim-bookworm")
    bases = [rest.split(" AS ") for word, rest in instructions() if word == "FROM"]
    names = ["dependencies", "fetch", "weights", "kernels", "app", "worker"]
    assert [name for _, name in bases] == names
    assert {base for base, _ in bases} == {"${BASE_IMAGE}", "dependencies"}
    assert not DOCKERFILE.startswith("# syntax")


def test_a_worker_looks_for_kernels_where_they_are_compiled() -> None:
    """Triton's cache notes whole paths."""
    folder = environment()["TRITON_CACHE_DIR"]
    assert f"-m builder.kernels {folder};" in dict(stage("kernels"))["RUN"]
    (copied,) = (rest for _, rest in stage("worker") if "--from=kernels" in rest)
    *_, source, target = copied.split()
    (directory,) = (rest for word, rest in stage("worker") if word == "WORKDIR")
    assert source == f"{directory}/{target}" == folder


def test_python_is_process_1_and_not_root() -> None:
    words = [word for word, _ in stage("worker")]
    assert "ENTRYPOINT" not in words
    assert stage("worker")[-1] == ("CMD", '["python", "-u", "handler.py"]')
    assert ("USER", "10001:10001") in stage("worker")
    assert "--uid 10001" in dict(reversed(stage("worker")))["RUN"]


def test_the_page_has_an_image_of_its_own() -> None:
    """The worker's holds no Gradio, and neither runs as root."""
    assert "gradio" in (ROOT / "requirements-app.txt").read_text()
    assert not any("gradio" in lock.read_text() for lock in ROOT.glob("*.lock"))
    assert all("requirements-app" not in rest for _, rest in stage("worker"))
    assert ("USER", "10001:10001") in stage("app")
    assert stage("app")[-1][1].startswith('["python", "-u", "app.py"')


def test_the_page_has_the_pins_of_the_worker() -> None:
    """But for what Gradio does not take."""
    page, worker = pinned("requirements-app.txt"), pinned("requirements.txt")
    assert worker.keys() - page.keys() == {"runpod"}
    differing = {name for name in worker.keys() & page if worker[name] != page[name]}
    assert differing == {"pillow"}


def pinned(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    pins = [line.partition("==") for line in lines if line[:1] != "#"]
    return {package: version for package, equals, version in pins if equals}


def test_what_changes_most_often_comes_last() -> None:
    """The order is dependencies, weights, code, labels.

    A commit changes only the cheap layers at the end.
    """
    order = [rest for word, rest in stage("worker") if word in ("COPY", "ARG")]
    assert [
        next(word for word in rest.split() if not word.startswith("--"))
        for rest in order
    ] == [
        *("/models", "models/shapeworld", "/app/kernel-cache"),
        *("schemas", "animatediff", "handler.py"),
        *("VERSION=dev", "REVISION=unknown"),
    ]
    heavy = [
        rest for word, rest in stage("dependencies") + stage("fetch") if word == "COPY"
    ]
    assert all(
        word.startswith(
            ("requirements", "${REQUIREMENTS}", "builder/", "./", "animatediff/")
        )
        and not word.endswith("animatediff")
        for r in heavy
        for word in r.split()
    )


def test_tokens_are_build_secrets_only() -> None:
    arguments = [
        rest.partition("=")[0] for word, rest in instructions() if word == "ARG"
    ]
    names = [*arguments, *environment()]
    assert not [name for name in names if re.search("TOKEN|SECRET|PASSWORD|KEY", name)]
    assert "--mount=type=secret,id=hf_token" in DOCKERFILE
    assert re.search(r'secret\s*=\s*\["type=env,id=hf_token,env=HF_TOKEN"\]', BAKE)


def test_the_images_environment_is_valid() -> None:
    variables = {
        name: value
        for name, value in environment().items()
        if name.startswith(("ANIMATEDIFF_", "BUCKET_"))
    }
    assert variables.keys() <= VARIABLES.keys()
    image = Settings.from_env(variables)
    assert image.offline
    assert {path.parts[1] for path in (image.output_dir, image.cache_dir)} == {"tmp"}
    assert {
        environment()[name]
        for name in (
            "HF_HUB_OFFLINE",
            "TRANSFORMERS_OFFLINE",
            "HF_HUB_DISABLE_TELEMETRY",
        )
    } == {"1"}
    assert environment()["HOME"] == "/tmp"
    assert environment()["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"


def ignored(path: str) -> bool:
    """Whether .dockerignore excludes a file; the last rule that matches decides."""
    result = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        rule = line.strip().lstrip("!").rstrip("/")
        if not rule or rule.startswith("#"):
            continue
        pattern = re.escape(rule).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if re.fullmatch(f"{pattern}(/.*)?", path):
            result = not line.startswith("!")
    return result


def test_the_build_context_holds_only_the_copied_files() -> None:
    copied = [
        word
        for name in ("dependencies", "fetch", "weights", "kernels", "app", "worker")
        for kind, rest in stage(name)
        if kind == "COPY" and "--from" not in rest
        for word in rest.split()[:-1]
        if not word.startswith(("--", "$"))
    ]
    assert "animatediff" in copied
    for path in copied:
        assert (ROOT / path).exists(), path
        assert not ignored(path), path
    for path in (
        ".env",
        ".git/config",
        ".venv/pyvenv.cfg",
        "README.md",
        "animatediff/__pycache__/a.pyc",
        "models/other/x.safetensors",
        "outputs/a.mp4",
        "requirements-dev.txt",
        "tests/x.py",
        "token",
    ):
        assert ignored(path), path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "module", "absent"),
    [
        ("fetch", "builder.fetch_models", ("torch", "requests", "pydantic")),
        ("weights", "builder.convert", ("requests", "huggingface_hub")),
        ("kernels", "builder.kernels", ("diffusers", "pydantic", "requests")),
    ],
)
def test_a_stage_holds_all_that_its_command_imports(
    name: str, module: str, absent: tuple[str, ...], tmp_path: Path
) -> None:
    for word, rest in stage(name):
        if word == "COPY" and "--from" not in rest:
            *sources, target = rest.split()
            for source in sources:
                copy_into_stage(ROOT / source, tmp_path / target)
    # An editable installation would find what the stage lacks.
    code = (
        f"import sys; sys.meta_path[:] = [finder for finder in sys.meta_path"
        f" if 'editable' not in repr(finder)]; import {module};"
        f" print(set({absent}) & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "set()\n"), done.stderr


def copy_into_stage(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def test_profiles_are_those_of_the_table() -> None:
    assert "ARG MODELS_PROFILE=shapeworld" in DOCKERFILE
    default = re.search(r'variable "PROFILE" \{\s*default = "(\S+)"', BAKE)
    assert default
    assert default[1] in PROFILES
    triggers = WORKFLOWS["gpu-smoke.yml"][True]  # YAML reads the key "on" as true
    inputs = triggers["workflow_dispatch"]["inputs"]
    assert set(inputs["profile"]["options"]) == PROFILES
    assert set(inputs["target"]["options"]) == set(
        re.findall(r'^target "(cuda\S+)"', BAKE, re.MULTILINE)
    )


def test_bake_sets_the_dockerfiles_arguments() -> None:
    declared = {
        rest.partition("=")[0] for word, rest in instructions() if word == "ARG"
    }
    blocks = " ".join(re.findall(r"args = \{(.*?)\}", BAKE, re.DOTALL))
    assert set(re.findall(r"(\w+)\s*=", blocks)) == declared
    assert set(re.findall(r'^target "(\S+)"', BAKE, re.MULTILINE)) == {
        "common",
        "app",
        "cuda13",
        "cuda12-8",
    }


def locked(name: str) -> dict[str, str]:
    """Return each package's version in a lock, whose lines must all have a hash."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if line[:1] != "#"]
    matches = [
        re.fullmatch(r"(\S+)==(\S+) --hash=sha256:[0-9a-f]{64}", line) for line in lines
    ]
    assert all(matches)
    return {match[1]: match[2] for match in matches if match}


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_every_pin(lock: str) -> None:
    packages = locked(lock)
    for pin in pins(LOCKS[lock]):
        name, version = pin.split("==")
        assert packages[name.lower().replace("_", "-")] == version
    assert len(packages) > 2 * len(pins(LOCKS[lock]))


def test_the_image_installs_a_lock() -> None:
    defaults = [rest for word, rest in stage("dependencies") if word == "ARG"]
    assert defaults == ["REQUIREMENTS=requirements.lock"]
    assert not ignored("requirements.lock")
    assert 'REQUIREMENTS = "requirements-cuda12.8.lock"' in BAKE


def test_the_other_cuda_has_another_torch_and_xformers() -> None:
    default = locked("requirements.lock")
    cuda12 = locked("requirements-cuda12.8.lock")
    assert cuda12["torch"] != default["torch"]
    assert "xformers" in cuda12.keys() - default.keys()


def test_the_image_holds_no_training_and_no_laboratory() -> None:
    for path in ("animatediff/training/loop.py", "lab/soak/run.py", "scripts/demo.py"):
        assert ignored(path)
    assert not ignored("animatediff/cli/make.py")


def test_hub_json_names_existing_variables() -> None:
    assert (HUB["type"], HUB["category"], HUB["config"]["runsOn"]) == (
        "serverless",
        "video",
        "GPU",
    )
    assert [name for name in hub_inputs() if not is_known(name)] == []
    for preset in HUB["config"]["presets"]:
        assert preset["defaults"].keys() <= hub_inputs().keys()
        assert (
            preset["defaults"].get("ANIMATEDIFF_DEFAULT_MODEL") in catalog.BASE_MODELS
        )
    models = {
        option["value"]
        for option in hub_inputs()["ANIMATEDIFF_DEFAULT_MODEL"]["options"]
    }
    assert models == {"", *catalog.BASE_MODELS}


@pytest.mark.parametrize("name", hub_inputs())
def test_hub_json_inputs(name: str) -> None:
    """An input follows the publishing guide, and the worker accepts all its values."""
    entry = hub_inputs()[name]
    allowed = {
        "name",
        "type",
        "description",
        "default",
        "options",
        "min",
        "max",
        "required",
        "advanced",
    }
    assert entry.keys() <= allowed | {"trueValue", "falseValue"}
    assert entry["type"] in ("string", "number", "boolean", "huggingface")
    values = [option["value"] for option in entry.get("options", [])] + [
        entry.get("min", ""),
        entry.get("max", ""),
    ]
    if entry["type"] == "boolean":
        values += [entry["trueValue"], entry["falseValue"]]
        default = entry["trueValue"] if entry["default"] else entry["falseValue"]
    else:
        default = str(entry["default"])
    if name in VARIABLES and not name.startswith("BUCKET_"):
        for value in (*values, default):
            Settings.from_env({name: str(value)})
        image = {name: environment()[name]} if name in environment() else {}
        field = VARIABLES[name].field
        assert getattr(Settings.from_env({name: default}), field) == getattr(
            Settings.from_env(image), field
        )
    elif name in environment():
        assert default == environment()[name]
    else:
        assert default == ""


def test_the_hubs_tests_are_valid_jobs() -> None:
    names = [test["name"] for test in HUB_TESTS["tests"]]
    assert len(set(names)) == len(names)
    for test in HUB_TESTS["tests"]:
        assert test.keys() == {"name", "input", "timeout"}
        assert parse_job_input(test["input"]).prompt
        assert 1000 <= test["timeout"] <= 600_000
    config = HUB_TESTS["config"]
    assert config.keys() <= {"gpuTypeId", "gpuCount", "env", "allowedCudaVersions"}
    assert all(is_known(entry["key"]) for entry in config["env"])
    assert config["allowedCudaVersions"] == HUB["config"]["allowedCudaVersions"]


def test_workflows_run_existing_commands() -> None:
    commands = [
        step.get("run", "")
        for flow in WORKFLOWS.values()
        for job in flow["jobs"].values()
        for step in job["steps"]
    ]
    targets = set(
        re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    )
    for command in commands:
        assert set(re.findall(r"^make ([\w-]+)", command, re.MULTILINE)) <= targets
        for script in re.findall(
            r"^(?:scripts|tests)/[\w/]+\.sh", command, re.MULTILINE
        ):
            assert os.access(ROOT / script, os.X_OK), script
    assert {"make lint", "make test", "tests/image/run.sh"} <= set(commands)
    assert all(
        flow["permissions"] == {"contents": "read"} for flow in WORKFLOWS.values()
    )


@pytest.mark.skipif(shutil.which("sh") is None, reason="no shell")
@pytest.mark.parametrize("arguments", [["--target", "cuda11"], ["--what"]])
def test_build_image_refuses_unknown_arguments(arguments: list[str]) -> None:
    done = subprocess.run(
        ["sh", "scripts/build_image.sh", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr
