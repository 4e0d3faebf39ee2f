"""``python -m scripts.bench``: the table."""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from lab.bench.figures import NOT_INSTALLED, Row, head, lines
from lab.bench.sizes import SIZES, Run, Size

PARTS = {
    "step": "step:measure",
    "job": "job:measure",
    "decode": "job:decode",
    "text": "job:text",
    "cold": "cold_start:measure",
    "swaps": "swaps:measure_swaps",
    "queue": "queue_overhead:measure",
    "family": "job:family",
}
"""Each part of the table, and the function below lab.bench that yields its rows."""
LARGE = ("cold", "swaps")
"""Parts that start from files: what was made before them is freed."""
DTYPES = ("float16", "bfloat16", "float32")


def rows(part: str, run: Run) -> Iterator[Row]:
    """Measure a part. Raises ModuleNotFoundError for a library that it needs."""
    module, _, name = PARTS[part].partition(":")
    yield from getattr(import_module(f"lab.bench.{module}"), name)(run)


def machine(run: Run) -> dict[str, Any]:
    """Return what the figures were measured on."""
    device = str(run.device)
    if run.device.type == "cuda":
        device = torch.cuda.get_device_name(run.device)
    names = ("torch", "diffusers", "transformers", "peft", "accelerate")
    return {
        "device": device,
        "dtype": str(run.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        **{name: _version(name) for name in names},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return NOT_INSTALLED


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table as its rows are known. Return 1 if a part could not run."""
    options = _options(argv)
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        run = _run(options, options.files or Path(scratch))
        about = machine(run)
        print(", ".join(f"{key} {value}" for key, value in about.items()))
        print(head())
        measured, failed = _measured(options.parts, run)
    if options.json:
        report = {"machine": about, "rows": measured, "failed": failed}
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 1 if failed else 0


def _measured(
    parts: Sequence[str], run: Run
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Print and return the rows of all parts, and why others could not run."""
    measured: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for part in parts:
        if part in LARGE:
            run.drop()
        try:
            for row in rows(part, run):
                print(*lines(row), sep="\n", flush=True)
                measured.append({"part": part, **row.as_json()})
        except ModuleNotFoundError as error:
            failed[part] = f"{(error.name or '').split('.')[0]} is {NOT_INSTALLED}"
            print(f"{part}: {failed[part]}", file=sys.stderr)
        except RuntimeError as error:
            failed[part] = str(error)
            print(f"{part}: {error}", file=sys.stderr)
    return measured, failed


def _run(options: argparse.Namespace, folder: Path) -> Run:
    device = torch.device(options.device)
    dtype = options.dtype or ("float32" if device.type == "cpu" else "float16")
    changes = {
        name: getattr(options, name)
        for name in ("frames", "side", "steps")
        if getattr(options, name) is not None
    }

    def changed(name: str) -> Size:
        return replace(SIZES[name], **changes)

    small = changed("embedded") if options.size == "embedded" else SIZES["embedded"]
    return Run(
        size=changed(options.size),
        device=device,
        dtype=getattr(torch, dtype),
        repeat=options.repeat,
        folder=folder,
        embedded=small,
    )


def _parts(text: str) -> list[str]:
    parts = text.split(",")
    for part in parts:
        if part not in PARTS:
            raise argparse.ArgumentTypeError(
                f"no part {part!r}, must be of {', '.join(PARTS)}"
            )
    return parts


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.bench",
        description="Measure this project beside diffusers, in one run and in turn.",
        epilog="At SD 1.5's size on a CPU, give --side 128: 512 takes hours.",
    )
    add = parser.add_argument
    add("--parts", type=_parts, default=list(PARTS), help=f"of {','.join(PARTS)}")
    add("--size", choices=SIZES, default="embedded", help="of the random models")
    add("--device", default="cpu")
    add("--dtype", choices=DTYPES, help="float32 on a CPU, else float16")
    add("--repeat", type=int, default=3, help="turns; medians are of these")
    add("--frames", type=int)
    add("--side", type=int, help="pixels, a multiple of 64")
    add("--steps", type=int, help="of a job")
    add("--json", type=Path, help="a file for all values")
    add("--files", type=Path, help="keep the weight files here, for the next run")
    return parser.parse_args(argv)
