"""Convert pickled weights to half-precision .safetensors files, for a fast start.

``python -m builder.convert models --output DIR``: motion modules, MotionLoRAs, the
domain adapter and SparseCtrl branches are published as float32 pickles. The worker
looks for a ``.safetensors`` file next to each ``.ckpt`` and takes that first: half the
bytes, and nothing to unpickle. Of a motion module only the keys of the module are kept,
whatever the trainer saved around them; positional tables stay, as they tell how many
frames there may be.

Every number is rounded to float16, so a float32 pipeline starts from rounded weights
too; who must not round mounts the published files instead. A file with a number that
float16 cannot hold is kept as it is. The worker's own reader reads each new file, and
the result is compared, before the pickle is given up. The sha256 differs from that of
the published file.
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
from animatediff.fetch.weight_file import WeightFile

KINDS = ("motion module", "SparseCtrl", "MotionLoRA", "LoRA")


class ConversionError(Exception):
    """The file must stay as it is; the text gives the reason."""


def halved(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``weights`` in float16, but for integers and a LoRA's single alpha.

    Raises ConversionError for a finite number that is not one in float16.
    """
    result: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        half = as_half(tensor)
        if half is None:
            raise ConversionError(
                f"{key} holds {tensor.abs().max():g}, which float16 does not"
            )
        result[key] = half
    return result


def needed(path: Path) -> dict[str, Tensor]:
    """Return what the worker reads of ``path``, in the published layout.

    Raises ConversionError if it is none of ``KINDS``, and what ``read_weights`` does.
    """
    content = read_weights(path)
    weights = {key.removeprefix("module."): value for key, value in content.items()}
    kind = detect(weights, path.name).kind
    if not kind.startswith(KINDS):
        raise ConversionError(f"it is {kind}, which is not converted")
    if kind.startswith("motion module"):
        published = renamed(path.name, weights, published_key)
        return {key: tensor for key, tensor in published.items() if is_motion_key(key)}
    return weights


def convert(path: Path, target: Path) -> None:
    """Write ``target``, whole or not at all.

    Raises ConversionError, AssetError, CheckpointError.
    """
    half = halved(needed(path))
    with written_whole(target) as part:
        save_file(half, part, metadata={"format": "pt", "converted_from": path.name})
        check(half, path, part)


def check(written: Mapping[str, Tensor], original: Path, converted: Path) -> None:
    """Read ``converted`` as the worker does, and compare it with ``written``.

    Raises ConversionError if they differ, or if ``original`` has another architecture.
    """
    read_back = read_weights(converted)
    if not _are_equal(read_back, written):
        raise ConversionError("what was read again is not what was written")
    before, after = map(WeightFile.of, (original, converted))
    if read_motion_layers(after)[1] != read_motion_layers(before)[1]:
        raise ConversionError(
            "what was written is taken for another architecture than the original"
        )


def _are_equal(some: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    if some.keys() != others.keys():
        return False
    return all(torch.equal(some[key], others[key]) for key in others)


def convert_folder(source: Path, output: Path, remove: bool) -> list[str]:
    """Convert every pickle below ``source``, and return a line about each.

    With another ``output`` than ``source``, all other files are copied there.
    """
    lines: list[str] = []
    for path in _files_below(source):
        place = output / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in PICKLES:
            line, is_converted = _converted(path, place, remove)
            lines.append(line)
            if is_converted:
                continue
        if place != path:
            shutil.copyfile(path, place)
    return lines


def _files_below(folder: Path) -> list[Path]:
    """Return all files below ``folder``, sorted, without unfinished downloads."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in files if ".incoming" not in path.parts)


def _converted(path: Path, place: Path, remove: bool) -> tuple[str, bool]:
    """Return a line about the pickle ``path``, and whether it was converted."""
    twin = place.with_suffix(".safetensors")
    try:
        convert(path, twin)
    except (ConversionError, AnimateDiffError) as error:
        return f"{path.name}: kept as it is: {error}", False
    before, after = path.stat().st_size, twin.stat().st_size
    if remove:
        path.unlink()
    return f"{path.name}: {before} -> {twin.name}: {after} bytes", True


def main(arguments: list[str] | None = None) -> int:
    """Run the command. Return 0, or 2 if there is no such folder."""
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
        print(f"there is no folder {options.models}", file=sys.stderr)
        return 2
    output = options.output or options.models
    for line in convert_folder(options.models, output, options.remove):
        print(line, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
