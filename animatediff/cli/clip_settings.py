"""``python -m animatediff.video FILE``: the settings that a clip's file holds."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..job.again import job_again, read_settings


def main(arguments: Sequence[str] | None = None, prog: str = "video") -> int:
    """Print the settings in a clip. Raises AnimateDiffError for a clip without any.

    The exit status is 1 if the job that is asked for lacks something that the file does
    not hold.
    """
    parser = argparse.ArgumentParser(
        prog=prog, description="Print the settings that a clip holds, as JSON."
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a clip in any format")
    parser.add_argument(
        "--job",
        action="store_true",
        help="print a job that makes the clip again, for animatediff make --job",
    )
    options = parser.parse_args(arguments)
    settings = read_settings(options.file)
    if not options.job:
        print(_json(settings))
        return 0
    job = job_again(settings)
    print(_json({"input": job.fields}))
    for gap in job.gaps:
        print(f"not in the clip: {gap}", file=sys.stderr)
    return 1 if job.gaps else 0


def _json(value: Any) -> str:
    """JSON in which every letter can be read, and nothing steers a terminal."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return "".join(
        char if char == "\n" or char.isprintable() else json.dumps(char)[1:-1]
        for char in text
    )
