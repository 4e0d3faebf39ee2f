"""The wheel holds the packages, and nothing of the laboratory or the tests."""

import tarfile
import tomllib
from pathlib import Path

import pytest

from animatediff import __version__
from lab import check_wheel


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return check_wheel.build(tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
def test_wheel_holds_the_packages(built: tuple[Path, Path]) -> None:
    _, wheel = built
    files = check_wheel.wheel_files(wheel)
    assert files == check_wheel.expected_files()
    assert {"animatediff/py.typed", "schemas/job_input.schema.json"} <= files
    assert wheel.name.split("-")[1] == __version__


@pytest.mark.slow
def test_sdist_holds_no_tests_and_no_weights(built: tuple[Path, Path]) -> None:
    sdist, _ = built
    with tarfile.open(sdist) as archive:
        tops = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert {"animatediff", "schemas", "pyproject.toml", "LICENSE"} <= tops
    assert not tops & {"tests", "lab", "models", "scripts", "builder"}


def test_dependencies_are_ranges() -> None:
    text = (check_wheel.ROOT / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    for dependency in project["dependencies"]:
        assert ">=" in dependency
        assert ",<" in dependency
        assert "==" not in dependency


def test_every_pin_is_in_a_range() -> None:
    text = (check_wheel.ROOT / "pyproject.toml").read_text()
    ranges = {
        dependency.split(">=")[0]
        for dependency in tomllib.loads(text)["project"]["dependencies"]
    }
    lines = (check_wheel.ROOT / "requirements.txt").read_text().splitlines()
    pins = {line.split("==")[0] for line in lines if "==" in line}
    assert ranges <= pins
