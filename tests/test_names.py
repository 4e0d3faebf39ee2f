"""Names, and the marks that switch a rule off: what ruff does not check."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WAIVER = re.compile(r"# noqa\b(?!: [A-Z]+\d+(, [A-Z]+\d+)* --? \w)")
"""A mark of ruff without a rule or without a reason."""
WORDS = {"told", "said", "given", "found", "wanted", "own", "beside", "its"}
PLACES = ("animatediff", "builder", "lab", "schemas", "scripts", "tests")
FILES = [path for place in PLACES for path in sorted((ROOT / place).rglob("*.py"))]


def names_in(tree: ast.AST) -> list[str]:
    """Return the names of variables, parameters and attributes that are set."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.append(node.attr)
        elif isinstance(node, ast.arg):
            names.append(node.arg)
    return names


def test_no_two_test_files_have_one_name() -> None:
    """pytest takes them for the same module."""
    names = [path.name for path in FILES if path.name.startswith("test_")]
    assert len(names) == len(set(names))


def test_the_rule_sees_each_kind_of_name() -> None:
    tree = ast.parse("found = 1\nx.told = 2\ndef f(own): pass")
    assert sorted(names_in(tree)) == ["found", "own", "told"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_are_nouns(path: Path) -> None:
    names = names_in(ast.parse(path.read_text(encoding="utf-8")))
    assert [name for name in names if name.strip("_") in WORDS] == []


def test_the_rule_sees_a_waiver_without_reason() -> None:
    lines = ["x  # noqa", "x  # noqa: S105", "x  # noqa: S105 - no token"]
    assert [bool(WAIVER.search(line)) for line in lines] == [True, True, False]


def test_a_rule_is_switched_off_with_a_reason() -> None:
    lines = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in FILES
        if path != Path(__file__)
        for line in path.read_text(encoding="utf-8").splitlines()
        if WAIVER.search(line)
    ]
    assert lines == []
