"""Compare this code with reference numbers: python -m scripts.check_golden DIR.

DIR holds one folder a case beside ``common/``. Every folder is run by the check that
its name begins with; a line a comparison says the largest error and the limit, the last
line how many passed and failed. Exit status 1 on any failure, and on a folder that no
check knows.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from lab.golden.cases import CASES
from lab.golden.reference import Comparison, Golden


def run(
    golden: Golden, folders: list[Path], report: Callable[[Comparison], None]
) -> None:
    for folder in folders:
        case = CASES.get(folder.name)
        if case is None:
            report(
                Comparison(
                    folder.name,
                    float("inf"),
                    0.0,
                    f"no check knows this folder; known: {', '.join(CASES)}",
                )
            )
            continue
        count = 0
        for comparison in case(golden, folder):
            report(comparison)
            count += 1
        if count == 0:
            report(
                Comparison(
                    folder.name,
                    float("inf"),
                    0.0,
                    "the folder holds nothing to compare",
                )
            )


def chosen(directory: Path, only: set[str], skip: set[str]) -> list[Path]:
    folders = [
        path
        for path in sorted(directory.iterdir())
        if path.is_dir() and path.name != "common"
    ]
    names = {folder.name for folder in folders}
    for option, given in (("--only", only), ("--skip", skip)):
        if unknown := sorted(given - names):
            raise SystemExit(
                f"{option}: no such case folder: {', '.join(unknown)}; there are"
                f" {', '.join(sorted(names))}"
            )
    return [
        folder
        for folder in folders
        if (not only or folder.name in only) and folder.name not in skip
    ]


def names(text: str) -> set[str]:
    return {name for name in text.split(",") if name}


def main(arguments: list[str] | None = None) -> int:
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

    counts: Mapping[bool, list[str]] = {True: [], False: []}

    def report(comparison: Comparison) -> None:
        counts[comparison.ok].append(comparison.name)
        verdict = "ok" if comparison.ok else "FAIL"
        note = f"  {comparison.note}" if comparison.note else ""
        print(
            f"{comparison.name:44} {comparison.error:9.2e}  limit"
            f" {comparison.limit:7.1e}  {verdict}{note}",
            flush=True,
        )

    folders = chosen(options.directory, options.only, options.skip)
    run(Golden(options.directory, getattr(torch, options.dtype)), folders, report)
    print(f"{len(counts[True])} passed, {len(counts[False])} failed")
    return 0 if counts[True] and not counts[False] else 1


if __name__ == "__main__":
    sys.exit(main())
