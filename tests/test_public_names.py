"""``import animatediff``: its names, where they come from, and its version."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import animatediff


def type_checking_imports() -> dict[str, str]:
    """The names that type checkers see, with the module of each."""
    tree = ast.parse(Path(animatediff.__file__).read_text())
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    return {
        alias.asname or "": node.module or ""
        for node in blocks[0].body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


@pytest.mark.parametrize("name", animatediff._HOMES)
def test_public_names_exist(name: str) -> None:
    assert getattr(animatediff, name).__name__ == name


def test_type_checkers_see_the_same_names() -> None:
    assert type_checking_imports() == animatediff._HOMES


def test_dir_and_star_import_list_the_public_names() -> None:
    names = {"__version__", *animatediff._HOMES}
    assert set(dir(animatediff)) == names
    namespace: dict[str, object] = {}
    exec("from animatediff import *", namespace)
    assert names <= set(namespace)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'animatediff' has no attribute 'Engine'"):
        animatediff.Engine  # noqa: B018 - the access raises


def test_version_is_a_release_number() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", animatediff.__version__)


def test_import_loads_nothing_else() -> None:
    code = (
        "import sys, importlib; before = set(sys.modules); import animatediff;"
        "sys.exit(sorted(set(sys.modules) - before) != ['animatediff'])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
