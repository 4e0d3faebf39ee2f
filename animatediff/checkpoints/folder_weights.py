"""The weights of one part of a model in diffusers' folder layout, in any of its forms.

There may be a file for each precision, an older file without moving averages, a pickle
instead of a safetensors file, or several files with an index.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from ..errors import AssetError, CheckpointError
from ..families import ModelPart
from ..fetch.weight_file import WeightFile
from .files import count_values, read_weights

_HALF = ".fp16"
_WITHOUT_AVERAGES = ".non_ema"
_NO_INDEX = (ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""Errors of reading an index that is none."""


@dataclass(frozen=True)
class PartFiles:
    """The files that hold the weights of ``part``, in its own folder.

    ``names`` are those of one file, or of several that an index lists.
    """

    folder: Path
    names: tuple[str, ...]

    @property
    def files(self) -> tuple[WeightFile, ...]:
        """The files, called by the names of their folder and their own."""
        folder = self.folder
        return tuple(
            WeightFile.at(folder / name, f"{folder.name}/{name}") for name in self.names
        )

    @property
    def title(self) -> str:
        """How messages call the weights."""
        first, *others = self.names
        rest = f" and {len(others)} more" if others else ""
        return f"{self.folder.name}/{first}{rest}"

    def count_values(self) -> int:
        """How many numbers there are, see ``files.count_values``."""
        return sum(map(count_values, self.files))

    def read(self) -> dict[str, Tensor]:
        """Every tensor by its key; see ``files.read_weights`` for the errors."""
        weights: dict[str, Tensor] = {}
        for file in self.files:
            content = read_weights(file)
            if both := weights.keys() & content.keys():
                raise CheckpointError(
                    f"{file.name} holds {min(both)}, which another file of the model"
                    " holds too",
                    file=file.name,
                )
            weights |= content
        return weights


def find_weights(folder: Path, part: ModelPart, dtype: torch.dtype) -> PartFiles:
    """The files to read: the variant that suits ``dtype``, else any that exists.

    Raises AssetError if there is none, or if a file that an index lists is missing;
    CheckpointError for a damaged index.
    """
    names = list(_names(part, is_half=dtype in (torch.float16, torch.bfloat16)))
    for name in names:
        if (folder / name).is_file():
            shards = _shards(folder, name) if name.endswith(".json") else (name,)
            return PartFiles(folder, shards)
    shown = [name for name in names if not name.endswith(".json")]
    raise AssetError(
        f"no weights in {folder.name}/, looked for {', '.join(shown)}, and for an index"
        " of several files",
        file=folder.name,
    )


def _names(part: ModelPart, *, is_half: bool) -> Iterator[str]:
    """Names of files and indices; those without moving averages come last."""
    variants = (_HALF, "") if is_half else ("", _HALF)
    for group in (variants, (_WITHOUT_AVERAGES,)):
        for name in part.weight_files:
            stem, dot, suffix = name.rpartition(".")
            for variant in group:
                yield f"{stem}{variant}{dot}{suffix}"
                yield f"{name}.index{variant}.json"
                if variant:
                    yield f"{stem}{variant}{dot}{suffix}.index.json"


def _shards(folder: Path, index: str) -> tuple[str, ...]:
    place = f"{folder.name}/{index}"
    try:
        content: object = json.loads((folder / index).read_text(encoding="utf-8"))
        table = cast("dict[str, dict[str, str]]", content)["weight_map"]
        names = tuple(sorted(set(table.values())))
        are_here = [name for name in names if (folder / Path(name).name).is_file()]
    except _NO_INDEX as error:
        raise CheckpointError(f"{place} is no index of weights", file=place) from error
    for name in names:
        if name not in are_here or Path(name).name != name:
            raise AssetError(
                f"there is no {folder.name}/{name}, which {place} lists", file=name
            )
    if not names:
        raise CheckpointError(f"{place} lists no files", file=place)
    return names
