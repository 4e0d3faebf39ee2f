"""Checkpoints: everything that the next step depends on, in one folder.

A folder is there completely or not at all.
"""

import json
import logging
import pickle
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from ..errors import CheckpointError, ConfigurationError
from .config import TrainConfig

log = logging.getLogger(__name__)

STATE = "state.pt"
VERSION = 1
"""The version of the state's contents."""
_NAME = re.compile(r"step-(\d{7})")


def folder_of(output_dir: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` is."""
    return output_dir / "checkpoints" / f"step-{step:07}"


def complete_ones(output_dir: Path) -> list[Path]:
    """The checkpoints of a run, sorted by step."""
    folders = (output_dir / "checkpoints").glob("step-*")
    return sorted(folder for folder in folders if _is_complete(folder))


def _is_complete(folder: Path) -> bool:
    return bool(_NAME.fullmatch(folder.name)) and (folder / STATE).is_file()


def begin(output_dir: Path, step: int) -> Path:
    """Create an empty folder for a checkpoint, which ``finish`` completes.

    Removes incomplete folders that a killed process left.
    """
    part = folder_of(output_dir, step).with_suffix(".part")
    for old in part.parent.glob("*.part"):
        shutil.rmtree(old, ignore_errors=True)
    part.mkdir(parents=True)
    return part


def finish(part: Path, keep: int) -> Path:
    """Name the folder, and delete all but the ``keep`` newest checkpoints."""
    target = part.with_suffix("")
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)
    for old in complete_ones(target.parent.parent)[:-keep]:
        shutil.rmtree(old)
    return target


def find(config: TrainConfig) -> Path | None:
    """The checkpoint to resume from. Raises ConfigurationError if it does not exist."""
    if config.resume == "never":
        return None
    if config.resume == "auto":
        return next(reversed(complete_ones(Path(config.output_dir))), None)
    path = Path(config.resume)
    if not (path / STATE).is_file():
        raise ConfigurationError(
            f"resume: there is no checkpoint in {path}", setting="resume"
        )
    return path


def resumed(config: TrainConfig) -> dict[str, Any] | None:
    """The state to resume from, or None to start anew.

    Logs which keys of the config have changed since. Raises ConfigurationError or
    CheckpointError if there is no such checkpoint, or if it is another stage's.
    """
    path = find(config)
    if path is None:
        return None
    state = read(path)
    before, now = json.loads(state["config"]), config.deciding()
    if state.get("version") != VERSION or before["stage"] != now["stage"]:
        raise CheckpointError(
            f"{path.name} is a checkpoint of the stage {before['stage']}",
            file=path.name,
        )
    log.info("resuming from %s", path)
    changed = changed_keys(before, now)
    if changed:
        log.warning(
            "these keys have changed since %s, so the result will differ: %s",
            path.name,
            ", ".join(changed),
        )
    return state


def read(path: Path) -> dict[str, Any]:
    """The state in a checkpoint. Raises CheckpointError if it is damaged."""
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
    before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> list[str]:
    """The keys, with dots between levels, whose values differ between two tables."""
    changed: list[str] = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            old, new = cast("dict[str, Any]", old), cast("dict[str, Any]", new)
            changed += changed_keys(old, new, f"{prefix}{key}.")
        elif old != new:
            changed.append(f"{prefix}{key}")
    return changed
