"""Inside the package nothing imports from a room that stands below it in
ARCHITECTURE.md's list.
"""

import ast
from pathlib import Path

import pytest

import animatediff

PACKAGE = Path(animatediff.__file__).parent
LEVELS = {
    "atomic": 0,
    "errors": 0,
    "progress": 0,
    "config": 1,
    "memory": 1,
    "video": 1,
    "catalog": 2,
    "job": 3,
    "settings": 3,
    "variables": 0,
    "fetch": 4,
    "models": 4,
    "checkpoints": 5,
    "adapters": 6,
    "conditioning": 6,
    "controls": 6,
    "sampling": 6,
    "pipeline": 7,
    "preflight": 8,
    "engine": 9,
    "provenance": 10,
    "training": 10,
    "serving": 11,
    "cli": 12,
    "__main__": 13,
}
ROOT = PACKAGE.parent
OUTSIDE_TESTS = sorted(
    path
    for top in ("animatediff", "schemas", "lab", "scripts", "builder")
    for path in (ROOT / top).rglob("*.py")
)
FILES = [
    path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"
]


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    depth = len(path.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            rooms |= (
                {node.module.split(".")[0]}
                if node.module
                else {alias.name for alias in node.names if alias.name != "__version__"}
            )
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "animatediff."
        ):
            rooms.add((node.module or "").removeprefix("animatediff.").split(".")[0])
    return rooms


@pytest.mark.parametrize(
    "path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix()
)
def test_imports_go_up_only(path: Path) -> None:
    room = room_of(path)
    for other in imported_rooms(path):
        assert other == room or LEVELS[other] < LEVELS[room], f"{room} imports {other}"


def imported_tops(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere, in functions too."""
    tops = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            tops |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            tops.add((node.module or "").split(".")[0])
    return tops


@pytest.mark.parametrize(
    "path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix()
)
def test_the_package_stands_alone(path: Path) -> None:
    outside = {"lab", "scripts", "builder", "tests"}
    if room_of(path) != "cli":
        outside.add("schemas")
    assert not imported_tops(path) & outside


@pytest.mark.parametrize(
    "path", OUTSIDE_TESTS, ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_nothing_imports_tests(path: Path) -> None:
    assert "tests" not in imported_tops(path)
