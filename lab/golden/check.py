"""Compare this code with reference numbers: python -m scripts.check_golden DIR.

DIR holds a folder for each case next to ``common/``. The check of that name compares
the folder's numbers; every comparison prints a line with the largest error and the
limit, and the last line counts those that passed and failed. The exit code is 1 if one
failed or if no check knows a folder.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

from lab.golden.cases import CASES
from lab.golden.reference import Comparison, Golden


def run(
    golden: Golden, folders: list[Path], report: Callable[[Comparison], None]
) -> None:
    """Check each folder, and report every comparison."""
    for folder in folders:
        for comparison in _check(golden, folder):
            report(comparison)


def _check(golden: Golden, folder: Path) -> Iterator[Comparison]:
    """Yield the comparisons of a folder, or a failed one that explains their lack."""
    case = CASES.get(folder.name)
    if case is None:
        note = f"no check knows this folder; known: {', '.join(CASES)}"
        yield Comparison(folder.name, math.inf, 0.0, note)
        return
    is_empty = True
    for comparison in case(golden, folder):
        is_empty = False
        yield comparison
    if is_empty:
        note = "the folder holds nothing to compare"
        yield Comparison(folder.name, math.inf, 0.0, note)


def chosen(directory: Path, only: set[str], skip: set[str]) -> list[Path]:
    """Return the case folders to check, sorted.

    ``only``: their names, all if it is empty. Raises SystemExit for an unknown name.
    """
    folders = {path.name: path for path in directory.iterdir() if path.is_dir()}
    folders.pop("common", None)
    _check_names("--only", only, folders)
    _check_names("--skip", skip, folders)
    names = (only or set(folders)) - skip
    return [folders[name] for name in sorted(names)]


def _check_names(option: str, names: set[str], folders: Mapping[str, Path]) -> None:
    unknown = sorted(names - folders.keys())
    if unknown:
        raise SystemExit(
            f"{option}: no such case folder: {', '.join(unknown)}; there are"
            f" {', '.join(sorted(folders))}"
        )


def names(text: str) -> set[str]:
    """Return the names in a text that separates them by commas."""
    return set(text.split(",")) - {""}


class Report:
    """Prints comparisons, and counts them."""

    def __init__(self) -> None:
        self.passed = self.failed = 0

    def add(self, comparison: Comparison) -> None:
        """Print a line about the comparison."""
        verdict = "ok" if comparison.ok else "FAIL"
        if comparison.ok:
            self.passed += 1
        else:
            self.failed += 1
        note = f"  {comparison.note}" if comparison.note else ""
        print(
            f"{comparison.name:44} {comparison.error:9.2e}  limit"
            f" {comparison.limit:7.1e}  {verdict}{note}",
            flush=True,
        )


def main(arguments: list[str] | None = None) -> int:
    """Print the comparisons. Return 0 if there are any and all passed."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.check_golden", description=(__doc__ or "").split(":")[0]
    )
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--only", type=names, default=set(), metavar="A,B")
    parser.add_argument("--skip", type=names, default=set(), metavar="A,B")
    options = parser.parse_args(arguments)
    if not (options.directory / "common").is_dir():
        parser.error(f"{options.directory} has no folder common/")
    report = Report()
    folders = chosen(options.directory, options.only, options.skip)
    golden = Golden(options.directory, getattr(torch, options.dtype))
    run(golden, folders, report.add)
    print(f"{report.passed} passed, {report.failed} failed")
    return 0 if report.passed and not report.failed else 1


if __name__ == "__main__":
    sys.exit(main())
