"""The YAML files of ``configs/``: what an entry may hold, and the jobs it stands for.

The keys are those of the published scripts/animate.py. A key that is a field of a job
follows from the declaration in ``animatediff.job.clip``; ``PublishedKeys`` lists the
keys that are not.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

from pydantic import BeforeValidator, Field, create_model

from ..errors import InvalidRequest
from ..job.clip import SEED_MAX, GenerationRequest
from ..job.fields import shown
from ..job.validation import validated
from .inference_config import Table, motion_module_version, read_yaml

Item = TypeVar("Item")


def _listed(value: object) -> object:
    """Make a single value a list."""
    if value is None or isinstance(value, list):
        return cast(object, value)
    return [value]


def _blank_is_none(value: Any) -> Any:
    return None if value == "" else value


Texts = Annotated[list[str], BeforeValidator(_listed)]
Seed = Annotated[int, Field(ge=-1, le=SEED_MAX)]
Strength = Annotated[float, Field(ge=-10, le=10)]


class MotionLora(Table):
    """One entry of ``motion_module_lora_configs``."""

    path: str
    alpha: Strength = 1.0


class PublishedKeys(Table):
    """One model with one or several prompts: the keys that are no field of a job.

    A seed of -1 is drawn; a single seed is used for every prompt.
    """

    prompt: Annotated[Texts, Field(min_length=1)]
    n_prompt: Texts = Field([""])
    seed: Annotated[list[Seed], BeforeValidator(_listed)] = Field([-1])
    inference_config: str | None = None
    motion_module_lora_configs: list[MotionLora] = Field([])
    lora_model_path: str | None = None
    lora_alpha: Strength = 0.8
    adapter_lora_path: str | None = None
    adapter_lora_scale: Strength = 1.0
    controlnet_path: str | None = None
    controlnet_config: str | None = None
    controlnet_images: Texts = Field([])
    controlnet_image_indexs: Annotated[list[int], BeforeValidator(_listed)] = Field([0])
    normalize_condition_images: bool = False
    controlnet_scale: Annotated[float, Field(ge=0, le=10)] = 1.0


_FROM_PUBLISHED_KEYS = (
    "prompt",
    "negative_prompt",
    "seed",
    "motion_module_version",
    "loras",
    "controls",
)
"""Fields of a job that ``PublishedKeys`` stand for."""
_FROM_COMMAND_LINE = ("format",)
_PUBLISHED_DEFAULTS = {"steps": 25, "guidance_scale": 7.5}


def _plain_fields() -> dict[str, str]:
    """The fields of a job that an entry may hold as they are, by their keys."""
    special = {*_FROM_PUBLISHED_KEYS, *_FROM_COMMAND_LINE}
    return {
        mark.yaml or name: name
        for name, _, mark in shown(GenerationRequest)
        if name not in special
    }


PLAIN_FIELDS = _plain_fields()


def _plain_key(key: str, name: str) -> tuple[Any, Any]:
    info = GenerationRequest.model_fields[name]
    default = _PUBLISHED_DEFAULTS.get(key, info.get_default())
    kind = Annotated[info.annotation, *info.metadata, BeforeValidator(_blank_is_none)]
    return kind, Field(default=default, description=info.description)


if TYPE_CHECKING:

    class Entry(PublishedKeys):
        """``PublishedKeys`` and the fields of a job."""

        def __getattr__(self, name: str) -> Any: ...

else:
    Entry = create_model(
        "Entry",
        __base__=PublishedKeys,
        __module__=__name__,
        **{key: _plain_key(key, name) for key, name in PLAIN_FIELDS.items()},
    )


@dataclass(frozen=True)
class PlannedClip:
    """One job of a config: the number of its entry, and the request."""

    entry: int
    request: GenerationRequest


def read_entries(path: Path) -> list[Entry]:
    """The entries of a prompt config.

    Raises InvalidRequest that names the file, the entry, the key and what is allowed.
    """
    raw = read_yaml(path)
    if not isinstance(raw, list) or not raw:
        kind = type(cast(object, raw)).__name__
        raise InvalidRequest(path.name, kind, "a list of entries")
    return [
        validated(Entry, entry, place=f"{path.name}, entry {i}", noun="key")
        for i, entry in enumerate(cast("list[Any]", raw))
    ]


def requests(entry: Entry, place: str) -> Iterator[GenerationRequest]:
    """The jobs of ``entry``, one for each prompt; a seed to be drawn is None.

    Raises InvalidRequest, for ``place``, unless there are as many negative prompts and
    seeds as prompts, or one.
    """
    count = len(entry.prompt)
    seeds = _for_each(entry.seed, count, f"{place}: seed")
    negatives = _for_each(entry.n_prompt, count, f"{place}: n_prompt")
    shared = _shared_fields(entry)
    for prompt, negative, seed in zip(entry.prompt, negatives, seeds, strict=True):
        fields = {
            **shared,
            "prompt": prompt,
            "negative_prompt": negative,
            "seed": None if seed == -1 else seed,
        }
        yield validated(GenerationRequest, fields, place=place)


def _shared_fields(entry: Entry) -> dict[str, Any]:
    """The fields that all jobs of ``entry`` have in common."""
    config = entry.inference_config
    return {
        **{name: getattr(entry, key) for key, name in PLAIN_FIELDS.items()},
        "motion_module_version": motion_module_version(config) if config else None,
        "loras": tuple(_loras(entry)),
        "controls": tuple(_controls(entry)),
    }


def _loras(entry: Entry) -> Iterator[dict[str, Any]]:
    files = [
        (entry.lora_model_path, entry.lora_alpha),
        (entry.adapter_lora_path, entry.adapter_lora_scale),
        *((lora.path, lora.alpha) for lora in entry.motion_module_lora_configs),
    ]
    for path, strength in files:
        if path:
            yield {"path": path, "strength": strength, "ignore_file_alpha": True}


def _controls(entry: Entry) -> Iterator[dict[str, Any]]:
    if entry.controlnet_path and entry.controlnet_images:
        yield {
            "path": entry.controlnet_path,
            "images": entry.controlnet_images,
            "frame_indices": entry.controlnet_image_indexs,
            "strength": entry.controlnet_scale,
            "normalize": entry.normalize_condition_images,
        }


def _for_each(values: Sequence[Item], count: int, place: str) -> Sequence[Item]:
    if len(values) not in (1, count):
        raise InvalidRequest(
            place, f"{len(values)} values", f"one, or one for each of {count} prompts"
        )
    return list(values) * count if len(values) == 1 else values
