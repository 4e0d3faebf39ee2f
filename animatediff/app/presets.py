"""Presets: named values of a form, ours as rows of a table, a user's as a JSON file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from ..atomic import written_whole
from ..errors import InvalidRequest, StorageError
from ..job.clip import GenerationRequest

FILE = "presets.json"
MAX_NAME = 60
_PERSONAL = "your own"


@dataclass(frozen=True)
class Preset:
    """A name, one line for people, and the fields of a job that it sets."""

    name: str
    line: str
    values: Mapping[str, Any]


PRESETS = (
    Preset(
        "quality",
        "more steps, the model's own size",
        {"num_inference_steps": 40, "scheduler": "ddim"},
    ),
    Preset(
        "quick",
        "few steps, to try words",
        {"num_inference_steps": 8, "scheduler": "dpmpp_2m", "num_frames": 8},
    ),
    Preset("portrait", "upright, 2:3", {"width": 512, "height": 768}),
    Preset("landscape", "wide, 3:2", {"width": 768, "height": 512}),
    Preset(
        "loop",
        "a GIF that starts again at its end",
        {"format": "gif", "num_frames": 16},
    ),
    Preset(
        "shapeworld",
        "the embedded family's size and guidance",
        {"model": "shapeworld", "width": 64, "height": 64, "guidance_scale": 4.0},
    ),
)
"""Our presets, in the order of the page."""


def presets(folder: Path) -> tuple[Preset, ...]:
    """Return our presets and those in ``folder``; a file that is damaged has none."""
    return (*PRESETS, *_personal(folder))


def preset_of(folder: Path, name: str) -> Preset | None:
    """Return the preset of this name, or None; a user's own goes before ours."""
    return {preset.name: preset for preset in presets(folder)}.get(name)


def save_preset(folder: Path, name: str, job: Mapping[str, Any]) -> None:
    """Keep the fields of ``job`` but its prompts under ``name``.

    Raises InvalidRequest for a name that is empty or too long, and StorageError.
    """
    name = name.strip()
    if not name.isprintable() or not 1 <= len(name) <= MAX_NAME:
        raise InvalidRequest("name", name, f"text of 1 to {MAX_NAME} characters")
    kept = {preset.name: preset for preset in _personal(folder)}
    values = {key: job[key] for key in job if key not in ("prompt", "negative_prompt")}
    kept[name] = Preset(name, _PERSONAL, values)
    text = json.dumps([asdict(preset) for preset in kept.values()], indent=1)
    try:
        with written_whole(folder / FILE) as part:
            part.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        reason = f"the presets cannot be written: {error.strerror}"
        raise StorageError(reason) from error


def _personal(folder: Path) -> tuple[Preset, ...]:
    try:
        listed = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return tuple(_read(row) for row in cast("list[dict[str, Any]]", listed))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return ()


def _read(row: Mapping[str, Any]) -> Preset:
    values: Mapping[str, Any] = row["values"]
    known = {
        key: values[key] for key in values if key in GenerationRequest.model_fields
    }
    return Preset(str(row["name"]), _PERSONAL, known)
