"""The YAML files of ``configs/``: what an entry may hold, and the jobs it stands for.

The keys are those of the published scripts/animate.py. A key that is a field of a job
follows from the declaration in ``animatediff.job.clip``; ``PublishedKeys`` lists the
keys that are not. Files of the published code's first year are read too: their entries
have names and may list several motion modules, and some keys were called differently.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar, cast

from pydantic import BeforeValidator, Field, create_model, model_validator

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


def _without_blanks(entry: object) -> object:
    """Leave out keys that have no value; an empty prompt is one."""
    if not isinstance(entry, dict):
        return entry
    return {
        key: value
        for key, value in cast("dict[str, Any]", entry).items()
        if value is not None and (value != "" or key == "prompt")
    }


Texts = Annotated[list[str], BeforeValidator(_listed)]
Seed = Annotated[int, Field(ge=-1, le=SEED_MAX)]
Strength = Annotated[float, Field(ge=-10, le=10)]


class MotionLora(Table):
    """One entry of ``motion_module_lora_configs``."""

    path: str
    alpha: Strength = 1.0


class PublishedKeys(Table):
    """One model with one or several prompts: the keys that are no field of a job.

    A seed of -1 is drawn; a single seed is used for every prompt. A key without a value
    counts as left out.

    ``base``, ``path`` and ``domain_lora_scale`` are keys of older files. ``path`` is a
    LoRA if there is a ``base`` for it, and else a model.
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
    base: str | None = None
    path: str | None = None
    domain_lora_scale: Strength | None = None

    _blanks = model_validator(mode="before")(_without_blanks)

    @model_validator(mode="after")
    def _one_spelling(self) -> Self:
        """Refuse an entry that has an older key beside the key of today."""
        keys = self.model_fields_set
        for older, today in _OLDER_KEYS:
            if older in keys and today in keys:
                raise ValueError(f"one of {older} and {today}, not both")
        return self

    @property
    def model_file(self) -> str | None:
        """The file that replaces the model's weights, by an older key."""
        return self.base or self.path

    @property
    def lora_file(self) -> str | None:
        """The style LoRA."""
        return self.lora_model_path or (self.path if self.base else None)

    @property
    def adapter_strength(self) -> float:
        """The strength of ``adapter_lora_path``."""
        scale = self.domain_lora_scale
        return self.adapter_lora_scale if scale is None else scale


_OLDER_KEYS = (
    ("base", "dreambooth_path"),
    ("path", "dreambooth_path"),
    ("path", "lora_model_path"),
    ("domain_lora_scale", "adapter_lora_scale"),
)
"""An older key, and a key of today that may not stand beside it."""

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
    description = Field(description=info.description)
    return Annotated[info.annotation, *info.metadata, description], default


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
    return [
        validated(Entry, each, place=f"{path.name}, entry {name}", noun="key")
        for name, entry in _named_entries(read_yaml(path), path.name)
        for each in _by_motion_module(entry)
    ]


def _named_entries(raw: Any, file: str) -> Iterable[tuple[object, Any]]:
    """The entries with their names; those of a list are numbers."""
    if isinstance(raw, list) and raw:
        return enumerate(cast("list[Any]", raw))
    if isinstance(raw, dict) and raw:
        return cast("dict[Any, Any]", raw).items()
    kind = type(cast(object, raw)).__name__
    raise InvalidRequest(file, kind, "a list of entries, or entries by name")


def _by_motion_module(entry: Any) -> Iterator[Any]:
    """``entry`` once for each of the motion modules that it lists."""
    table = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
    modules = table.get("motion_module")
    if isinstance(modules, list) and modules:
        for module in cast("list[Any]", modules):
            yield {**table, "motion_module": module}
    else:
        yield entry


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
    plain = {name: getattr(entry, key) for key, name in PLAIN_FIELDS.items()}
    return {
        **plain,
        "dreambooth": plain["dreambooth"] or entry.model_file,
        "motion_module_version": motion_module_version(config) if config else None,
        "loras": tuple(_loras(entry)),
        "controls": tuple(_controls(entry)),
    }


def _loras(entry: Entry) -> Iterator[dict[str, Any]]:
    files = [
        (entry.lora_file, entry.lora_alpha),
        (entry.adapter_lora_path, entry.adapter_strength),
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
