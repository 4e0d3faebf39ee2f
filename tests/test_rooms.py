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
}
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
                else {alias.name for alias in node.names}
            )
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            ("animatediff.", "schemas")
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
