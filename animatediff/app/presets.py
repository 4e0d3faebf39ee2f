"""Presets: named values of a form, ours as rows of a table, a user's as a JSON file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..atomic import written_whole
from ..catalog import DEFAULT_MODEL
from ..errors import InvalidRequest, StorageError
from ..job.clip import GenerationRequest
from ..job.fields import Group

FILE = "presets.json"
MAX_NAME = 60
_PERSONAL = "your own"


@dataclass(frozen=True)
class Preset:
    """A name, one line for people, and the fields of a job that it sets.

    It is for one base model, or for all if ``model`` is empty. ``opens`` is a group of
    the form that a person fills in next.
    """

    name: str
    line: str
    values: Mapping[str, Any]
    model: str = ""
    opens: Group | None = None


PRESETS = (
    Preset("quality", "40 steps", {"num_inference_steps": 40, "scheduler": "ddim"}),
    Preset(
        "quick",
        "8 frames, 8 steps",
        {"num_inference_steps": 8, "scheduler": "dpmpp_2m", "num_frames": 8},
    ),
    Preset("loop", "a GIF without an end", {"loop": True, "format": "gif"}),
    Preset("first frame", "your picture", {}, opens="control"),
    Preset("portrait", "2:3", {"width": 512, "height": 768}, DEFAULT_MODEL),
    Preset("landscape", "3:2", {"width": 768, "height": 512}, DEFAULT_MODEL),
    Preset(
        "distilled",
        "8 steps",
        {"motion_module": "shapeworld_lcm"},
        "shapeworld",
    ),
    Preset(
        "zoom",
        "by a MotionLoRA",
        {"loras": [{"path": "shapeworld/motion_lora_zoom_in.safetensors"}]},
        "shapeworld",
    ),
)
"""Our presets, in the order of the page."""

PROMPTS: Mapping[str, tuple[str, ...]] = {
    "shapeworld": (
        "a red circle on a white background, moving up",
        "a blue square on a gray background, growing",
        "a yellow triangle on a black background, moving left",
    ),
    DEFAULT_MODEL: (
        "a lighthouse on a cliff at sunset, waves rolling in, highly detailed",
        "a cup of coffee on a wooden table, rising steam, morning light",
        "a fox running through deep snow, soft light",
    ),
}
"""Prompts to begin with, by the base model."""


def presets(folder: Path, model: str = "") -> tuple[Preset, ...]:
    """Return our presets for a base model, and those in ``folder``.

    Without a model, all. A file that is damaged has none.
    """
    ours = (each for each in PRESETS if each.model in ("", model) or not model)
    return (*ours, *_personal(folder))


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
    text = json.dumps([_written(preset) for preset in kept.values()], indent=1)
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


def _written(preset: Preset) -> dict[str, Any]:
    return {"name": preset.name, "values": preset.values}


def _read(row: Mapping[str, Any]) -> Preset:
    values: Mapping[str, Any] = row["values"]
    known = {
        key: values[key] for key in values if key in GenerationRequest.model_fields
    }
    return Preset(str(row["name"]), _PERSONAL, known)
