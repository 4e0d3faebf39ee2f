"""Where a run was left: all that the next step depends on, in one folder that is there
whole or not at all.
"""

import pickle
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, ConfigurationError
from .config import TrainConfig

STATE = "state.pt"
_NAME = re.compile(r"step-(\d{7})")


def folder_of(output_dir: Path, step: int) -> Path:
    return output_dir / "checkpoints" / f"step-{step:07}"


def whole_ones(output_dir: Path) -> list[Path]:
    """The checkpoints of a run, the newest last."""
    found = (output_dir / "checkpoints").glob("step-*")
    return sorted(
        path
        for path in found
        if _NAME.fullmatch(path.name) and (path / STATE).is_file()
    )


def begin(output_dir: Path, step: int) -> Path:
    """An empty folder to write a checkpoint into, which ``finish`` makes one. What a
    killed process left goes.
    """
    part = folder_of(output_dir, step).with_suffix(".part")
    for old in part.parent.glob("*.part"):
        shutil.rmtree(old, ignore_errors=True)
    part.mkdir(parents=True)
    return part


def finish(part: Path, keep: int) -> Path:
    """Give the folder its name, and remove all but the ``keep`` newest checkpoints."""
    target = part.with_suffix("")
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)
    for old in whole_ones(target.parent.parent)[:-keep]:
        shutil.rmtree(old)
    return target


def find(config: TrainConfig) -> Path | None:
    """The checkpoint that ``config.resume`` means. Raises ConfigurationError for one
    that is not there.
    """
    if config.resume == "never":
        return None
    if config.resume == "auto":
        return next(reversed(whole_ones(Path(config.output_dir))), None)
    path = Path(config.resume)
    if not (path / STATE).is_file():
        raise ConfigurationError(
            f"resume: there is no checkpoint in {path}", setting="resume"
        )
    return path


def read(path: Path) -> dict[str, Any]:
    """Raises CheckpointError for a damaged one."""
    try:
        return torch.load(path / STATE, map_location="cpu", weights_only=True)
    except (
        OSError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        pickle.UnpicklingError,
    ) as error:
        raise CheckpointError(
            f"{path.name}/{STATE} cannot be read: it is damaged", file=path.name
        ) from error


def changed_keys(
    before: Mapping[str, Any], now: Mapping[str, Any], place: str = ""
) -> list[str]:
    """The keys, with dots, in which two tables differ."""
    changed = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            changed += changed_keys(old, new, f"{place}{key}.")
        elif old != new:
            changed.append(f"{place}{key}")
    return changed
