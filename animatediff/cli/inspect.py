"""``animatediff inspect FILE...``: what weight files are, by their content."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..checkpoints.describe import describe
from ..errors import AnimateDiffError


def main(arguments: Sequence[str] | None = None, prog: str = "inspect") -> int:
    """Describe each file. The exit status is 1 if one could not be read."""
    parser = argparse.ArgumentParser(prog=prog, description="Show what a file is.")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    readable = [_show(path) for path in parser.parse_args(arguments).files]
    return 0 if all(readable) else 1


def _show(path: Path) -> bool:
    try:
        print(describe(path), end="\n\n")
    except AnimateDiffError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
        return False
    return True
