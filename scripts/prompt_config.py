"""The YAML files of ``configs/``: what an entry may hold, and the jobs that it stands
for.

The keys are those of the published code's scripts/animate.py; a few of our own come
after them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from animatediff import catalog
from animatediff.errors import InvalidRequest
from animatediff.job.request import (
    SEED_MAX,
    ControlRef,
    EmbeddingRef,
    GenerationRequest,
    LoraRef,
)

Item = TypeVar("Item")


def _listed(value: Any) -> Any:
    """A single value where a list may stand."""
    return value if isinstance(value, list) or value is None else [value]


Texts = Annotated[list[str], BeforeValidator(_listed)]
Seed = Annotated[int, Field(ge=-1, le=SEED_MAX)]
Strength = Annotated[float, Field(ge=-10, le=10)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class MotionLora(_Strict):
    """One entry of ``motion_module_lora_configs``."""

    path: str
    alpha: Strength = 1.0


class Embedding(_Strict):
    """A textual inversion; ``token`` is the word of the prompts that it stands for."""

    path: str
    token: str | None = None


class Entry(_Strict):
    """One model with one or several prompts. Seeds: -1 and none are drawn; one seed is
    used for every prompt.
    """

    prompt: Annotated[Texts, Field(min_length=1)]
    n_prompt: Texts = [""]
    seed: Annotated[list[Seed], BeforeValidator(_listed)] = [-1]
    steps: int = 25
    guidance_scale: float = 7.5
    W: int | None = None
    H: int | None = None
    L: int | None = None
    inference_config: str | None = None
    motion_module: str | None = None
    motion_module_lora_configs: list[MotionLora] = []
    dreambooth_path: str | None = None
    lora_model_path: str | None = None
    lora_alpha: Strength = 0.8
    adapter_lora_path: str | None = None
    adapter_lora_scale: Strength = 1.0
    controlnet_path: str | None = None
    controlnet_config: str | None = None
    controlnet_images: Texts = []
    controlnet_image_indexs: Annotated[list[int], BeforeValidator(_listed)] = [0]
    normalize_condition_images: bool = False
    # our own
    pretrained_model_path: str | None = None
    vae_path: str | None = None
    embeddings: list[Embedding] = []
    controlnet_scale: Annotated[float, Field(ge=0, le=10)] = 1.0
    scheduler: str | None = None
    fps: int | None = None


@dataclass(frozen=True)
class Clip:
    """One job of a config: the number of the entry it comes from, and the request."""

    entry: int
    request: GenerationRequest


class _MotionKwargs(_Strict):
    num_attention_heads: Literal[8] = 8
    num_transformer_block: Literal[1] = 1
    attention_block_types: list[Literal["Temporal_Self"]] = [
        "Temporal_Self",
        "Temporal_Self",
    ]
    temporal_position_encoding: Literal[True] = True
    temporal_position_encoding_max_len: int | None = None
    temporal_attention_dim_div: Literal[1] = 1
    zero_initialize: bool = True


class _Motion(_Strict):
    use_motion_module: Literal[True]
    motion_module_resolutions: list[int] = [1, 2, 4, 8]
    motion_module_mid_block: bool
    motion_module_type: Literal["Vanilla"] = "Vanilla"
    motion_module_kwargs: _MotionKwargs = _MotionKwargs()


class _UNetKwargs(_Motion):
    use_inflated_groupnorm: bool = False
    unet_use_cross_frame_attention: Literal[False] = False
    unet_use_temporal_attention: Literal[False] = False


class _Inference(_Strict):
    unet_additional_kwargs: _UNetKwargs
    noise_scheduler_kwargs: dict[str, Any] = {}


class _ControlKwargs(_Motion):
    set_noisy_sample_input_to_zero: Literal[True]
    use_simplified_condition_embedding: bool
    conditioning_channels: int


class _Control(_Strict):
    controlnet_additional_kwargs: _ControlKwargs


def read_entries(path: Path) -> list[Entry]:
    """The entries of a prompt config. Raises InvalidRequest that names file, entry, key
    and what may stand there.
    """
    raw = _read_yaml(path)
    if not isinstance(raw, list) or not raw:
        raise InvalidRequest(path.name, type(raw).__name__, "a list of entries")
    return [
        _validated(Entry, entry, f"{path.name}, entry {i}")
        for i, entry in enumerate(raw)
    ]


def motion_module_version(path: str) -> str:
    """The architecture that an inference config describes: the name of a row in
    ``MOTION_MODULE_VERSIONS``.
    """
    config = _validated(_Inference, _read_yaml(Path(path)), path)
    noise = {"clip_sample": False, **catalog.NOISE_SCHEDULE}
    for key, value in config.noise_scheduler_kwargs.items():
        if noise.get(key) != value:
            raise InvalidRequest(
                f"{path}: noise_scheduler_kwargs.{key}",
                value,
                f"{noise.get(key, 'no such key')}",
            )
    unet = config.unet_additional_kwargs
    wanted = (unet.use_inflated_groupnorm, unet.motion_module_mid_block)
    for name in ("v1", "v2", "v3"):
        row = catalog.MOTION_MODULE_VERSIONS[name]
        if (row.use_inflated_groupnorm, row.use_mid_block) == wanted:
            return name
    raise InvalidRequest(
        f"{path}: use_inflated_groupnorm, motion_module_mid_block",
        str(wanted),
        "those of v1, v2, v3",
    )


def control_kind(path: str) -> str:
    """Which SparseCtrl branch a controlnet config describes, "rgb" or "scribble"."""
    config = _validated(_Control, _read_yaml(Path(path)), path)
    return (
        "rgb"
        if config.controlnet_additional_kwargs.use_simplified_condition_embedding
        else "scribble"
    )


def requests(entry: Entry, place: str) -> Iterator[GenerationRequest]:
    """The jobs of ``entry``, one a prompt; a seed that is to be drawn is None.

    Raises InvalidRequest, for ``place``, unless there are as many negative prompts and
    seeds as prompts, or one.
    """
    count = len(entry.prompt)
    seeds = _for_each(entry.seed, count, f"{place}: seed")
    negatives = _for_each(entry.n_prompt, count, f"{place}: n_prompt")
    version = (
        motion_module_version(entry.inference_config)
        if entry.inference_config
        else None
    )
    loras = (
        [LoraRef(entry.lora_model_path, entry.lora_alpha, True)]
        if entry.lora_model_path
        else []
    )
    loras += (
        [LoraRef(entry.adapter_lora_path, entry.adapter_lora_scale, True)]
        if entry.adapter_lora_path
        else []
    )
    loras += [
        LoraRef(lora.path, lora.alpha, True)
        for lora in entry.motion_module_lora_configs
    ]
    for prompt, negative, seed in zip(entry.prompt, negatives, seeds, strict=True):
        yield GenerationRequest(
            prompt=prompt,
            negative_prompt=negative,
            num_frames=entry.L,
            width=entry.W,
            height=entry.H,
            num_inference_steps=entry.steps,
            guidance_scale=entry.guidance_scale,
            seed=None if seed == -1 else seed,
            scheduler=entry.scheduler,
            fps=entry.fps,
            model=entry.pretrained_model_path,
            motion_module=entry.motion_module or None,
            motion_module_version=version,
            dreambooth=entry.dreambooth_path or None,
            vae=entry.vae_path or None,
            loras=tuple(loras),
            embeddings=tuple(
                EmbeddingRef(item.path, item.token) for item in entry.embeddings
            ),
            controls=_controls(entry),
        )


def _controls(entry: Entry) -> tuple[ControlRef, ...]:
    if not entry.controlnet_path or not entry.controlnet_images:
        return ()
    return (
        ControlRef(
            path=entry.controlnet_path,
            images=tuple(entry.controlnet_images),
            frame_indices=tuple(entry.controlnet_image_indexs),
            strength=entry.controlnet_scale,
            normalize=entry.normalize_condition_images,
        ),
    )


def _for_each(values: Sequence[Item], count: int, place: str) -> Sequence[Item]:
    if len(values) not in (1, count):
        raise InvalidRequest(
            place, f"{len(values)} values", f"one, or one for each of {count} prompts"
        )
    return list(values) * count if len(values) == 1 else values


Model = TypeVar("Model", bound=BaseModel)


def _validated(model: type[Model], raw: Any, place: str) -> Model:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        key = ".".join(map(str, detail["loc"]))
        allowed = detail["msg"].removeprefix("Input should be ")
        if detail["type"] == "extra_forbidden":
            allowed = f"no such key; there are {', '.join(model.model_fields)}"
        raise InvalidRequest(f"{place}: {key}", detail["input"], allowed) from None


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidRequest(
            str(path), error.strerror, "a YAML file that can be read"
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        said = " ".join(str(error).split())
        raise InvalidRequest(str(path), said, "YAML") from None
