"""What a weight file is: python -m animatediff.checkpoints FILE [FILE ...]"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from ..errors import AnimateDiffError
from ..fetch.hashes import content_sha256
from .detect import detect
from .files import read_weights


def describe(path: Path) -> str:
    """Several lines. Raises AssetError, CheckpointError."""
    weights = read_weights(path)
    kind = detect(weights, path.name)
    dtypes = Counter(
        str(tensor.dtype).removeprefix("torch.") for tensor in weights.values()
    )
    rows = {
        "file": path.name,
        "kind": kind.kind,
        "version": kind.version,
        "rank": ", ".join(map(str, kind.ranks)),
        "has": ", ".join(kind.parts),
        "dtype": ", ".join(
            f"{dtype} ({count})" for dtype, count in dtypes.most_common()
        ),
        "keys": str(len(weights)),
        "parameters": str(sum(tensor.numel() for tensor in weights.values())),
        "bytes": str(path.stat().st_size),
        "sha256": content_sha256(path),
    }
    return "\n".join(f"{name:10} {value}" for name, value in rows.items() if value)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m animatediff.checkpoints", description="What a weight file is."
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    failed = 0
    for path in parser.parse_args(arguments).files:
        try:
            print(describe(path), end="\n\n")  # noqa: T201 - a CLI
        except AnimateDiffError as error:
            failed = 1
            print(f"{error.code}: {error.message}", file=sys.stderr)  # noqa: T201
    return failed


if __name__ == "__main__":
    sys.exit(main())
