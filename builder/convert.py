"""Pickled weights -> half-precision .safetensors, once, for a fast start: python -m
builder.convert models --output DIR

Motion modules, MotionLoRAs, the domain adapter and SparseCtrl branches are published as
float32 pickles. The worker looks for a ``.safetensors`` file beside each ``.ckpt`` and
takes that first: half the bytes, and nothing to unpickle. A motion module keeps its own
keys alone, whatever the trainer saved around them; positional tables stay, as they say
how many frames there may be.

Every number is rounded to float16, so a float32 pipeline starts from rounded weights
too; who must not round mounts the published files instead. A file with a number that
float16 cannot hold is kept as it is. What was written is read again by the worker's own
reader and compared before the pickle is given up. Its sha256 is another than the
published file's.
"""

import argparse
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from animatediff.atomic import written_whole
from animatediff.checkpoints.detect import detect
from animatediff.checkpoints.files import (
    PICKLES,
    as_half,
    read_weights,
    renamed,
)
from animatediff.checkpoints.motion_layout import (
    is_motion_key,
    published_key,
    read_motion_layers,
)
from animatediff.errors import AnimateDiffError

KINDS = ("motion module", "SparseCtrl", "MotionLoRA", "domain adapter")


class ConversionError(Exception):
    """A file that must stay as it is, and why."""


def halved(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``weights`` in float16, but for integers and single numbers (a LoRA's alpha).

    Raises ConversionError for a finite number that is not one in float16.
    """
    result = {}
    for key, tensor in weights.items():
        half = as_half(tensor)
        if half is None:
            raise ConversionError(
                f"{key} holds {tensor.abs().max():g}, which float16 does not"
            )
        result[key] = half
    return result


def needed(path: Path) -> dict[str, Tensor]:
    """What the worker reads of ``path``, in the published layout.

    Raises ConversionError if it is none of ``KINDS``, and what ``read_weights`` does.
    """
    weights = {
        key.removeprefix("module."): tensor
        for key, tensor in read_weights(path).items()
    }
    kind = detect(weights, path.name).kind
    if not kind.startswith(KINDS):
        raise ConversionError(f"it is {kind}, which is not converted")
    if kind.startswith("motion module"):
        published = renamed(path.name, weights, published_key)
        return {key: tensor for key, tensor in published.items() if is_motion_key(key)}
    return weights


def convert(path: Path, target: Path) -> None:
    """Write ``target``, whole or not at all. Raises ConversionError, AssetError,
    CheckpointError.
    """
    half = halved(needed(path))
    with written_whole(target) as part:
        save_file(half, part, metadata={"format": "pt", "converted_from": path.name})
        check(half, path, part)


def check(written: Mapping[str, Tensor], original: Path, converted: Path) -> None:
    """Raise ConversionError unless the worker reads ``written`` again, and of both
    files the same architecture.
    """
    found = read_weights(converted)
    if found.keys() != written.keys() or not all(
        torch.equal(found[key], written[key]) for key in written
    ):
        raise ConversionError("what was read again is not what was written")
    if read_motion_layers(converted)[1] != read_motion_layers(original)[1]:
        raise ConversionError(
            "what was written is taken for another architecture than the original"
        )


def convert_folder(source: Path, output: Path, remove: bool) -> list[str]:
    """Convert every pickle below ``source`` that can be; what was done, one line a
    file.

    With another ``output`` than ``source``, all other files are copied there.
    """
    said = []
    for path in sorted(
        path
        for path in source.rglob("*")
        if path.is_file() and ".incoming" not in path.parts
    ):
        place = output / path.relative_to(source)
        twin = place.with_suffix(".safetensors")
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in PICKLES:
            try:
                convert(path, twin)
            except (ConversionError, AnimateDiffError) as error:
                said.append(f"{path.name}: kept as it is: {error}")
            else:
                said.append(
                    f"{path.name}: {path.stat().st_size} -> {twin.name}:"
                    f" {twin.stat().st_size} bytes"
                )
                if remove:
                    path.unlink()
                continue
        if place != path:
            shutil.copyfile(path, place)
    return said


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m builder.convert",
        description="Pickled weights to half-precision safetensors.",
    )
    parser.add_argument("models", type=Path, help="folder, with all below it")
    parser.add_argument(
        "--output", type=Path, help="write here, with a copy of what is not converted"
    )
    parser.add_argument(
        "--remove", action="store_true", help="remove each pickle that was converted"
    )
    options = parser.parse_args(arguments)
    if not options.models.is_dir():
        print(f"there is no folder {options.models}", file=sys.stderr)  # noqa: T201 - a CLI
        return 2
    for line in convert_folder(
        options.models, options.output or options.models, options.remove
    ):
        print(line, file=sys.stderr)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
