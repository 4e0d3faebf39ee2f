"""Inside the package nothing imports from a room that stands below it in
ARCHITECTURE.md's list.
"""

import ast
import re
from pathlib import Path

import pytest

import animatediff

PACKAGE = Path(animatediff.__file__).parent
FLOORS = (
    ("atomic", "progress", "shown", "threads", "variables"),
    ("errors",),
    ("deadline", "transfers"),
    ("sandbox",),
    ("config", "kernels", "video"),
    ("families",),
    ("catalog", "memory"),
    ("settings",),
    ("device", "fetch"),
    ("job", "models"),
    ("autoencoder", "checkpoints"),
    ("adapters", "controls", "previews"),
    ("conditioning",),
    ("sampling",),
    ("pipeline",),
    ("preflight", "published", "warm_models"),
    ("engine",),
    ("training",),
    ("serving",),
    ("app",),
    ("cli",),
    ("__main__",),
)
"""Rooms from the ground floor up; a room imports only from floors below its own."""
LEVELS = {room: level for level, floor in enumerate(FLOORS) for room in floor}
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
    """The room of a file. A command stands at the top, whatever room it shows."""
    if path.name == "__main__.py":
        return "__main__"
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


def test_gradio_is_imported_in_one_module() -> None:
    """Only the page's own environment has it, and no worker imports the page."""
    naming = {path for path in OUTSIDE_TESTS if "gradio" in importing(path)}
    assert naming == {PACKAGE / "app" / "page" / "toolkit.py"}
    for path in FILES:
        if room_of(path) != "cli" and room_of(path) != "app":
            assert "app" not in imported_rooms(path), path


def importing(path: Path) -> set[str]:
    """What a file imports, also by name."""
    names = re.findall(r"import_module\(\"(\w+)", path.read_text(encoding="utf-8"))
    return imported_tops(path) | set(names)


def test_the_platforms_sdk_is_imported_in_one_room() -> None:
    """Only handler.py and serving/ know RunPod, so all else runs without its SDK."""
    root = PACKAGE.parent
    folders = ("animatediff", "builder", "schemas", "scripts", "lab")
    for folder in folders:
        for path in (root / folder).rglob("*.py"):
            if path.is_relative_to(PACKAGE / "serving"):
                continue
            importing = re.search(r"^\s*(import|from) runpod\b", path.read_text(), re.M)
            assert importing is None, path
