"""Training configs: a YAML file with ``key=value`` overrides, as one checked value."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

import yaml
from pydantic import (
    BaseModel,
    Field,
    InstanceOf,
    SerializeAsAny,
    ValidationError,
    model_validator,
)

from ..errors import ConfigurationError
from ..job.clip import LoraFile
from ..job.validation import problems
from .data import source_class
from .section import Count, Positive, Section, Share, Whole
from .source import DataSource

StageName = Literal[
    "vae",
    "text_encoder",
    "text_to_image",
    "image",
    "lora",
    "domain_adapter",
    "motion",
    "motion_lora",
    "sparsectrl",
    "lcm",
]
ModelT = TypeVar("ModelT", bound=BaseModel)
_Timestep = Annotated[int, Field(ge=0, le=1000)]
_NOT_DECIDING = {
    "output_dir",
    "log_every",
    "checkpoint_every",
    "keep",
    "resume",
    "validation",
}
"""Keys that do not affect the weights."""


class UNetShape(Section):
    """A UNet that is trained from scratch; names as in a diffusers config.json."""

    block_out_channels: tuple[Count, ...] = (320, 640, 1280, 1280)
    layers_per_block: Count = 2
    cross_attention_dim: Count = 768
    attention_head_dim: Count = 8
    norm_num_groups: Count = 32
    sample_size: Count = 64


class VaeShape(Section):
    """A VAE that is trained from scratch; names as in its config.json.

    Four widths make a latent of 8x8 pixels.
    """

    block_out_channels: tuple[Count, ...] = (128, 256, 512, 512)
    layers_per_block: Count = 2
    norm_num_groups: Count = 32
    sample_size: Count = 512


class TextShape(Section):
    """A text encoder that is trained from scratch; names as in its config.json."""

    hidden_size: Count = 64
    intermediate_size: Count = 256
    num_hidden_layers: Count = 2
    num_attention_heads: Count = 4


class ModelSection(Section):
    """The models that training starts from."""

    base: str | None = None
    """A folder in diffusers' layout: unet/, vae/, text_encoder/, tokenizer/. Each stage
    needs some of them.
    """
    single_file: str | None = None
    """A single file (LDM layout) whose weights replace those of the folder."""
    loras: tuple[LoraFile, ...] = ()
    """LoRAs, domain adapters or MotionLoRAs that are merged into the weights and stay
    frozen.
    """
    motion_module: str | None = None
    """A file, or "new" for modules that start as the identity."""
    motion_module_version: Literal["v1", "v2", "v3", "animatelcm"] | None = None
    motion_module_from: str | None = None
    """A file that initialises the layers of a new module; its version may differ."""
    control: Literal["rgb", "scribble"] | None = None
    control_file: str | None = None
    """A SparseCtrl file to continue from. None copies the UNet's encoder."""
    unet: UNetShape | None = None
    vae: VaeShape | None = None
    text_encoder: TextShape | None = None
    trainable: tuple[str, ...] = (".",)
    """For the image stage: parameters whose names contain one of these texts. "."
    matches all of them.
    """

    @model_validator(mode="after")
    def _check_motion_module_from(self) -> "ModelSection":
        if self.motion_module_from is not None and self.motion_module != "new":
            raise ValueError(
                "motion_module_from initialises a new module, so motion_module must"
                ' be "new"'
            )
        return self


class OptimizerSection(Section):
    """Parameters of AdamW."""

    lr: Positive = 1e-4
    betas: tuple[Share, Share] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    eps: Positive = 1e-8


class ScheduleSection(Section):
    """The learning rate: linear warm-up, then constant, or a half cosine down to 0."""

    name: Literal["constant", "cosine"] = "constant"
    warmup_steps: Whole = 0


class EmaSection(Section):
    """The moving average of the weights, which is exported. Decay 0 turns it off."""

    decay: Share = 0.9999
    """Limited to (1 + n) / (10 + n) after n steps, so that a young average forgets its
    start.
    """


class LossConfig(Section):
    """Noise, timesteps and weights of the denoising loss."""

    beta_schedule: Literal["linear", "scaled_linear"] | None = None
    """None uses the stage's own: "linear" with motion modules, else "scaled_linear"."""
    min_snr_gamma: Positive | None = None
    object_weight: Annotated[float, Field(ge=0)] = 0.0
    """Extra weight of latents that show more than background, for data with masks."""
    emphasis: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of timesteps drawn from ``emphasis_range``. The others are uniform in
    0..999.
    """
    emphasis_range: tuple[_Timestep, _Timestep] = (350, 990)
    stratified: bool = False
    """Spread the timesteps of a batch evenly instead of drawing them independently."""


class LoraSection(Section):
    """The LoRA of the stages lora, domain_adapter and motion_lora."""

    rank: Count = 16
    alpha: Positive | None = None
    """None uses the rank, so that the learned change has factor 1."""

    @property
    def scaled_alpha(self) -> float:
        """``alpha``, or else the rank."""
        return self.rank if self.alpha is None else self.alpha


class VaeSection(Section):
    """The loss and the scaling factor of the vae stage."""

    kl_weight: Annotated[float, Field(ge=0)] = 1e-6
    decoder_only: bool = False
    """Train the decoder alone, so that latents do not change."""
    scaling_items: Count = 256
    """Clips over which the latents' standard deviation is measured for scaling_factor,
    unless only the decoder trains.
    """


class TextSection(Section):
    """The captions of the text_encoder stage."""

    unknown: Share = 0.15
    """The share of captions that get a meaningless word inserted. Unused words get its
    vector.
    """
    vocabulary_captions: Count = 4000
    """Captions that are read to find the tokens in use."""


class ControlSection(Section):
    """Frames that condition a SparseCtrl branch (arXiv 2311.16933, section 3.3).

    One to some frames, at random places.
    """

    first_frame: Share = 0.5
    """The share of clips conditioned on their first frame alone, to animate pictures.
    """
    most_frames: Count = 4


class LcmSection(Section):
    """Consistency distillation (arXiv 2310.04378; motion modules: 2402.00769)."""

    guidance: Annotated[float, Field(ge=1)] = 7.5
    """The teacher's guidance scale. The student learns to match it without guidance."""
    solver_steps: Annotated[int, Field(ge=2, le=500)] = 50
    """Steps of the teacher's sampler; diffusers' LCMScheduler assumes 50."""
    target_decay: Share = 0.95
    huber_c: Positive = 0.001


class CacheSection(Section):
    """Latents cached on disk, so that a clip is read and encoded only once."""

    enabled: bool = False
    folder: str | None = None
    """None uses latents/ in output_dir."""
    variants: Count = 1
    """How many cuts of each clip are cached; epochs take turns with them."""


class ValidationSection(Section):
    """Clips generated with the averaged weights."""

    prompts: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    every: Whole = 0
    """Steps between validations. 0 validates only at the end."""
    steps: Count = 25
    guidance: float = 8.0
    scheduler: str = "ddim"
    fps: Count = 8


class TrainConfig(Section):
    """Everything that determines a training run."""

    stage: StageName
    output_dir: str
    data: SerializeAsAny[InstanceOf[DataSource]]
    model: ModelSection = ModelSection()
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection = ScheduleSection()
    ema: EmaSection = EmaSection()
    loss: LossConfig = LossConfig()
    lora: LoraSection = LoraSection()
    vae: VaeSection = VaeSection()
    text: TextSection = TextSection()
    control: ControlSection = ControlSection()
    lcm: LcmSection = LcmSection()
    latent_cache: CacheSection = CacheSection()
    validation: ValidationSection = ValidationSection()
    steps: Count
    seed: int = 0
    batch_size: Count = 1
    """Clips (or frames, or captions) per process and turn."""
    gradient_accumulation_steps: Count = 1
    max_grad_norm: Positive = 1.0
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    precision: Literal["no", "fp16", "bf16"] = "no"
    text_dropout: Share = 0.1
    """The share of captions that are dropped, for classifier-free guidance."""
    log_every: Count = 10
    checkpoint_every: Count = 500
    keep: Count = 2
    """Checkpoints that are kept; older ones are deleted."""
    resume: str = "auto"
    """"auto" resumes from the newest checkpoint in output_dir, "never" starts anew;
    anything else is the folder of a checkpoint.
    """

    @property
    def uses_sketches(self) -> bool:
        """Whether a SparseCtrl branch is conditioned on sketches, not pictures."""
        return self.stage == "sparsectrl" and self.model.control == "scribble"

    def fingerprint(self) -> str:
        """A hash of everything that affects the weights, and of nothing else."""
        text = json.dumps(self.deciding(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def deciding(self) -> dict[str, Any]:
        """The values that affect the weights. A resumed run must not change them.

        The number of steps is one of them only if the learning rate depends on it.
        """
        keys = _NOT_DECIDING | {"data"}
        if self.schedule.name == "constant":
            keys = keys | {"steps"}
        exclude: dict[str, Any] = dict.fromkeys(keys, True)
        exclude["latent_cache"] = {"folder"}
        table = self.model_dump(mode="json", exclude=exclude)
        return {**table, "data": self.data.deciding()}


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a YAML file and apply ``key=value`` overrides.

    Keys have dots between levels; values are YAML. Raises ConfigurationError that names
    the file or key, the problem, and for a misspelt key the nearest valid one.
    """
    path = Path(path)
    table = _read_table(path)
    for override in overrides:
        _apply(override, table)
    return validated(table)


def validated(table: Mapping[str, Any]) -> TrainConfig:
    """``table`` as a TrainConfig. Raises ConfigurationError like ``load_config``."""
    data = table.get("data")
    if isinstance(data, dict):
        data = cast("dict[str, Any]", data)
        source = _parsed(source_class(data), data, ("data",))
        table = {**table, "data": source}
    return _parsed(TrainConfig, table)


def _parsed(
    model: type[ModelT], table: Mapping[str, Any], place: tuple[str, ...] = ()
) -> ModelT:
    try:
        return model.model_validate(table)
    except ValidationError as error:
        problem = next(problems(error, model, table, noun="key", whole=""))
        key = ".".join((*place, problem.field)).strip(".") or "config"
        raise ConfigurationError(f"{key}: {problem}", setting=key) from None


def _read_table(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error.strerror}", setting=str(path)
        ) from None
    except UnicodeDecodeError as error:
        raise _not_yaml(str(path), error) from None
    table = _read_yaml(text, str(path))
    if not isinstance(table, dict):
        raise ConfigurationError(
            f"{path}: a training config must be a table of keys", setting=str(path)
        )
    return cast("dict[str, Any]", table)


def _apply(override: str, table: dict[str, Any]) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigurationError(f"{override!r} is not key=value", setting=override)
    *levels, last = key.split(".")
    for level in levels:
        if not isinstance(table.get(level), dict):
            table[level] = {}
        table = table[level]
    table[last] = _read_yaml(text, key)


def _read_yaml(text: str, place: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _not_yaml(place, error) from None


def _not_yaml(place: str, error: Exception) -> ConfigurationError:
    reason = " ".join(str(error).split())
    return ConfigurationError(f"{place} is not YAML: {reason}", setting=place)
