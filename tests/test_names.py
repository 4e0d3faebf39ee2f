"""Data have nouns for names, not words of speech; test files have different names."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
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
