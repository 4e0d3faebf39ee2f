"""What a training run is told: a YAML file, changed by ``key=value`` on the command
line, as one checked value.
"""

import difflib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import ConfigurationError, shorten

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
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class ShotConfig(_Strict):
    """How the synthetic world is shown, see ``shapeworld.world.Shot``."""

    camera: str | None = None
    style: str = "plain"
    watermark: bool = False
    amount: float = Field(default=1.0, exclude_if=lambda amount: amount == 1)


class DataConfig(_Strict):
    """Where clips come from, and how they are cut: a ``ClipFolder``, ``PictureFolder``
    or ``World`` of ``data.py``.
    """

    kind: Literal["clips", "pictures", "world"]
    root: str | None = None
    """The folder of clips or pictures."""
    manifest: str | None = None
    """A table (.csv, WebVid's too, or .jsonl) that names files below ``root``; None:
    all, with captions beside them.
    """
    num_frames: Count = 16
    stride: Count = 4
    """Frames of the file per frame of the clip."""
    width: Annotated[int, Field(ge=8, multiple_of=8)] = 256
    height: Annotated[int, Field(ge=8, multiple_of=8)] = 256
    flip: bool = True
    """Mirror half of the clips. Not for captions that name sides."""
    max_broken: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """The share of files that may be unreadable before training stops."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that read clips beside each training process; 0: it reads them itself.
    """
    size: Count = 4096
    """Of the world: how many different clips there are."""
    split: Literal["train", "validation", "held_out"] = "train"
    """Of the world."""
    shots: list[ShotConfig] = [ShotConfig()]
    """Of the world: each clip is shown in one of these."""
    two_objects: Share = 0.15
    """Of the world: the share of clips with a second thing."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Decides about the data, apart from the run's own seed."""

    @model_validator(mode="before")
    @classmethod
    def _size_of_the_world(cls, raw: Any) -> Any:
        fixed = {"width": 64, "height": 64, "flip": False, "stride": 1}
        if not isinstance(raw, dict) or raw.get("kind") != "world":
            return raw
        for key, value in fixed.items():
            if raw.get(key, value) != value:
                raise ValueError(f"{key} is {value} in the world")
        return {**raw, **fixed}

    @model_validator(mode="after")
    def _has_files(self) -> "DataConfig":
        if self.kind != "world" and self.root is None:
            raise ValueError(
                f"data of the kind {self.kind} need data.root, the folder that they"
                f" are in"
            )
        return self


class LoraFileConfig(_Strict):
    path: str
    strength: float = 1.0


class UNetShape(_Strict):
    """A UNet that is trained from nothing; the names are those of SD 1.5's config.json."""

    block_out_channels: list[Count] = [320, 640, 1280, 1280]
    layers_per_block: Count = 2
    cross_attention_dim: Count = 768
    attention_head_dim: Count = 8
    norm_num_groups: Count = 32
    sample_size: Count = 64


class VaeShape(_Strict):
    """A VAE that is trained from nothing; names as in its config.json. Four widths make
    8 pixels a latent.
    """

    block_out_channels: list[Count] = [128, 256, 512, 512]
    layers_per_block: Count = 2
    norm_num_groups: Count = 32
    sample_size: Count = 512


class TextShape(_Strict):
    """A text encoder that is trained from nothing; names as in its config.json."""

    hidden_size: Count = 64
    intermediate_size: Count = 256
    num_hidden_layers: Count = 2
    num_attention_heads: Count = 4


class ModelSection(_Strict):
    """What training starts from."""

    base: str | None = None
    """A folder in diffusers' layout: unet/, vae/, text_encoder/, tokenizer/. A stage
    needs only some of them.
    """
    single_file: str | None = None
    """An SD 1.5 file whose weights take the place of the folder's."""
    loras: list[LoraFileConfig] = []
    """LoRAs, domain adapters or MotionLoRAs that are added to the weights, and stay as
    they are.
    """
    motion_module: str | None = None
    """A file, or "new": modules that change nothing yet."""
    motion_module_version: Literal["v1", "v2", "v3", "animatelcm"] | None = None
    motion_module_from: str | None = None
    """A file, of another version even, whose layers a new motion module begins with."""
    control: Literal["rgb", "scribble"] | None = None
    control_file: str | None = None
    """A SparseCtrl file to go on from; None: a branch made of the UNet's own encoder.
    """
    unet: UNetShape | None = None
    vae: VaeShape | None = None
    text_encoder: TextShape | None = None
    trainable: list[str] = ["."]
    """Of the image stage: parameters whose names hold one of these. "." is in all of
    them.
    """

    @model_validator(mode="after")
    def _only_a_new_module_begins_with_another(self) -> "ModelSection":
        if self.motion_module_from is not None and self.motion_module != "new":
            raise ValueError(
                "motion_module_from is what a new one begins with, so motion_module"
                ' must be "new"'
            )
        return self


class OptimizerSection(_Strict):
    """AdamW's."""

    lr: Positive = 1e-4
    betas: tuple[Share, Share] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    eps: Positive = 1e-8


class ScheduleSection(_Strict):
    """How the learning rate goes: up over ``warmup_steps``, then constant, or down to 0
    along a half cosine.
    """

    name: Literal["constant", "cosine"] = "constant"
    warmup_steps: Annotated[int, Field(ge=0)] = 0


class EmaSection(_Strict):
    """What is exported is the moving average of the weights. 0 exports the weights
    themselves.
    """

    decay: Share = 0.9999
    """After n steps at most (1 + n) / (10 + n), so that a young average forgets its
    start.
    """


class LossConfig(_Strict):
    beta_schedule: Literal["linear", "scaled_linear"] | None = None
    """None: the stage's own, "linear" with motion modules and "scaled_linear" without.
    """
    min_snr_gamma: Positive | None = None
    object_weight: Annotated[float, Field(ge=0)] = 0.0
    """How much more latents count that show more than background, where the data tell
    them.
    """
    emphasis: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of timesteps that is drawn from ``emphasis_range``; the others are
    uniform in 0..999.
    """
    emphasis_range: tuple[
        Annotated[int, Field(ge=0, le=1000)], Annotated[int, Field(ge=0, le=1000)]
    ] = (350, 990)
    stratified: bool = False
    """Spread the timesteps of a batch evenly, in place of independent draws."""


class LoraSection(_Strict):
    """Of the stages lora, domain_adapter and motion_lora."""

    rank: Count = 16
    alpha: Positive | None = None
    """None: the rank, so that what is learned acts as it is."""


class VaeSection(_Strict):
    kl_weight: Annotated[float, Field(ge=0)] = 1e-6
    decoder_only: bool = False
    """Leave the latents as they are."""
    scaling_items: Count = 256
    """Clips over which the latents' spread is measured, for scaling_factor, unless only
    the decoder trains.
    """


class TextSection(_Strict):
    unknown: Share = 0.15
    """The share of captions into which a word is put that means nothing; unused words
    get its vector.
    """
    vocabulary_captions: Count = 4000
    """Captions that are read to find the tokens that are used."""


class ControlSection(_Strict):
    """Which frames a SparseCtrl branch is shown (arXiv 2311.16933, section 3.3): one to
    some, at random places.
    """

    first_frame: Share = 0.5
    """The share of clips where it is the first frame alone: what animates a picture."""
    most_frames: Count = 4


class LcmSection(_Strict):
    """Consistency distillation (arXiv 2310.04378; of motion modules: arXiv 2402.00769)."""

    guidance: Annotated[float, Field(ge=1)] = 7.5
    """The teacher's guidance scale, which the student gives without guidance."""
    solver_steps: Annotated[int, Field(ge=2, le=500)] = 50
    """Steps of the teacher's sampler; 50 is what diffusers' LCMScheduler counts with.
    """
    target_decay: Share = 0.95
    huber_c: Positive = 0.001


class CacheSection(_Strict):
    """Latents kept on disk, so that a clip is read and encoded once."""

    enabled: bool = False
    folder: str | None = None
    """None: latents/ in output_dir."""
    variants: Count = 1
    """How many different cuts of a clip there are, taken in turn."""


class ValidationSection(_Strict):
    """Clips made with the averaged weights."""

    prompts: list[str] = []
    seeds: list[int] = [0]
    every: Annotated[int, Field(ge=0)] = 0
    """Steps between; 0: only at the end."""
    steps: Count = 25
    guidance: float = 8.0
    scheduler: str = "ddim"
    fps: Count = 8


class TrainConfig(_Strict):
    """All that decides about a training run."""

    stage: StageName
    output_dir: str
    data: DataConfig
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
    """Clips (or frames, or captions) at once in each process."""
    gradient_accumulation_steps: Count = 1
    max_grad_norm: Positive = 1.0
    gradient_checkpointing: bool = False
    """Compute a layer again on the way back instead of keeping what it made: less
    memory, more time.
    """
    precision: Literal["no", "fp16", "bf16"] = "no"
    text_dropout: Share = 0.1
    """The share of captions that are left out, for guidance."""
    log_every: Count = 10
    checkpoint_every: Count = 500
    keep: Count = 2
    """Checkpoints that stay; older ones are removed."""
    resume: str = "auto"
    """ "auto": from the newest checkpoint in output_dir; "never"; or the folder of a checkpoint.
    """

    @property
    def shows_sketches(self) -> bool:
        """Whether a SparseCtrl branch is shown sketches, and not pictures."""
        return self.stage == "sparsectrl" and self.model.control == "scribble"

    def fingerprint(self) -> str:
        """A hash of all that decides about the weights, and of nothing else."""
        return hashlib.sha256(
            json.dumps(self.deciding(), sort_keys=True).encode()
        ).hexdigest()[:16]

    def deciding(self) -> dict[str, Any]:
        """The keys that a run that goes on must not change, as plain values. A longer
        run at one rate is the same.
        """
        told = [
            "output_dir",
            "log_every",
            "checkpoint_every",
            "keep",
            "resume",
            "validation",
        ]
        told += ["steps"] if self.schedule.name == "constant" else []
        exclude: Any = {
            **dict.fromkeys(told, True),
            "latent_cache": {"folder"},
            "data": {"workers"},
        }
        return self.model_dump(mode="json", exclude=exclude)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """A YAML file with ``key=value`` overrides; keys have dots between levels, values
    are YAML.

    Raises ConfigurationError that names the file or key, what is wrong, and for a
    misspelt key the nearest right one.
    """
    path = Path(path)
    raw = _read_yaml(path.read_text, str(path))
    if not isinstance(raw, dict):
        raise ConfigurationError(
            f"{path}: a training config is a table of keys", setting=str(path)
        )
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigurationError(f"{override!r} is not key=value", setting=override)
        *levels, last = key.split(".")
        table = raw
        for level in levels:
            if not isinstance(table.get(level), dict):
                table[level] = {}
            table = table[level]
        table[last] = _read_yaml(lambda text=text: text, key)
    return validated(raw)


def validated(raw: dict[str, Any]) -> TrainConfig:
    """``raw`` as a TrainConfig. Raises ConfigurationError as ``load_config`` does."""
    try:
        return TrainConfig.model_validate(raw)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        place = detail["loc"]
        key = ".".join(map(str, place)) or "config"
        if detail["type"] == "extra_forbidden":
            known = _keys_at(place[:-1])
            near = difflib.get_close_matches(str(place[-1]), known, n=1, cutoff=0.4)
            guess = f"did you mean {near[0]}? " if near else ""
            said = f"no such key; {guess}there are {', '.join(known)}"
        elif detail["type"] == "missing":
            said = "must be given"
        else:
            said = f"got {shorten(detail['input'])!r}: {detail['msg']}"
        raise ConfigurationError(f"{key}: {said}", setting=key) from None


def _keys_at(place: Sequence[Any]) -> list[str]:
    """The keys of the table at ``place``."""
    model: Any = TrainConfig
    for step in place:
        if isinstance(step, int):
            continue
        annotation = model.model_fields[step].annotation
        candidates = [annotation, *get_args(annotation)]
        model = next(
            each
            for each in candidates
            if isinstance(each, type) and issubclass(each, BaseModel)
        )
    return list(model.model_fields)


def _read_yaml(read: Any, place: str) -> Any:
    try:
        return yaml.safe_load(read())
    except OSError as error:
        raise ConfigurationError(
            f"{place} cannot be read: {error.strerror}", setting=place
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{place} is not YAML: {' '.join(str(error).split())}", setting=place
        ) from None
