"""A family of image models: every fact that differs between two of them.

A family is a frozen value. Nothing here imports torch, so that a command can look at
a family for free.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..config import MotionModuleConfig, UNet3DConfig

UNET_PREFIX = "model.diffusion_model."
"""Stands before the UNet's keys in a single file (LDM layout) of any family."""
VAE_PREFIX = "first_stage_model."
"""Stands before the VAE's keys in a single file (LDM layout) of any family."""
DIFFUSERS_WEIGHTS = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
)
"""Names that diffusers gives to a model's weights, without the variant."""
TRANSFORMERS_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Names that transformers gives to a model's weights, without the variant."""


@dataclass(frozen=True, eq=False)
class ModelMarks:
    """How weight files made for a model are recognised.

    A family has these marks; so has a model that is only recognised in order to name
    it in a refusal (``foreign.py``).
    """

    name: str
    """As messages show it."""
    single_file_marks: tuple[str, ...] = ()
    """Prefixes of keys that only this model's single files have."""
    latent_channels: int = 4
    """Numbers in a latent of its VAE, for each position."""
    text_width: int | None = None
    """Numbers in a vector of a textual inversion, if one vector makes a token."""
    embedding_keys: frozenset[str] | None = None
    """Keys of a textual inversion, if it has one tensor for each text encoder."""
    motion_levels: int | None = None
    """Levels of the UNet, each of which has motion modules on its way down and up."""
    lora_mark: str = ""
    """A regular expression that is found in names of layers, written with underscores,
    that only this model's LoRAs have; "" if there is none.
    """
    context_width: int | None = None
    """Numbers in a vector of the text that the UNet's cross-attention reads."""


@dataclass(frozen=True)
class ModelPart:
    """One of a family's models, and its names in the layouts of weight files."""

    name: str
    """Its folder in diffusers' layout, and its name in the address of a weight."""
    single_file_prefix: str
    """Stands before its keys in a single file."""
    lora_tags: tuple[str, ...] = ()
    """Its names before its layers in LoRA files, with underscores for dots; none if
    they never change it.
    """
    inner_prefix: str = ""
    """Stands before its own keys in all of these layouts, and is dropped."""
    weight_files: tuple[str, ...] = DIFFUSERS_WEIGHTS
    """Names of its weights in a diffusers folder, without the variant."""


@dataclass(frozen=True)
class TextEncoder(ModelPart):
    """A text encoder, with the tokenizer that belongs to it."""

    tokenizer: str = "tokenizer"
    """The tokenizer's folder in diffusers' layout."""
    model_class: str = "CLIPTextModel"
    tokenizer_class: str = "CLIPTokenizer"
    """Both are names of classes in transformers."""
    weight_files: tuple[str, ...] = TRANSFORMERS_WEIGHTS


@dataclass(frozen=True)
class MemoryFactors:
    """Peak memory of the models, in values, as counted on the real architecture.

    The unit of the first three is a value for each frame, latent position and channel
    of the UNet's first level.
    """

    denoise: float
    """A pass of the UNet, for each text: the peak is the feed-forward of the last up
    block's spatial attention.
    """
    residuals: float
    """The memory that SparseCtrl adds to a pass: residuals of all branches of a job."""
    condition: float
    """The embedded condition of one SparseCtrl branch."""
    decode: float
    """The VAE's decoder, for each pixel and channel of its first level, for each frame
    decoded at once.
    """


@dataclass(frozen=True)
class JobDefaults:
    """The value of each job field that a job for this model leaves out."""

    width: int
    height: int
    num_frames: int
    num_inference_steps: int
    guidance_scale: float
    fps: int = 8
    scheduler: str = "ddim"
    format: str = "mp4"


@dataclass(frozen=True)
class PreviewFactors:
    """A linear map from a latent to a colour, for previews.

    ``rows`` has red, green and blue for each channel, ``bias`` those of a latent of
    zeros; pixels are 0..1. ``spread`` is the standard deviation of finished latents.
    """

    rows: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]
    spread: float = 1.0


@dataclass(frozen=True)
class BaseModel:
    """A text-to-image model that a job may name.

    ``folder`` is its place below the models folder.
    """

    folder: str
    title: str
    motion_modules: tuple[str, ...]
    """Motion modules made for it; the first one that is installed is the default."""
    defaults: JobDefaults
    note: str = ""
    """A warning in the output of every job, if the model is not what users expect."""
    preview: PreviewFactors | None = None
    """How its latents look, if that is known; else it is fitted to the VAE."""


@dataclass(frozen=True)
class Companion:
    """A LoRA that belongs to a motion module.

    ``file`` is its place below the models folder, ``strength`` its authors' choice.
    """

    file: str
    strength: float


@dataclass(frozen=True)
class MotionModule:
    """Motion-module weights that a job may name.

    ``file`` is their place below the models folder, ``version`` their architecture.
    """

    file: str
    version: str
    title: str
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Values it was distilled for, where they differ from the base model's defaults."""
    most_steps: int | None = None
    """The most steps it was distilled for; None if it was not distilled."""
    companions: tuple[Companion, ...] = ()
    """LoRAs it was trained with, and needs beside it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Family(ModelMarks):
    """A family of image models, and the motion modules made for it."""

    unet: ModelPart
    vae: ModelPart
    text_encoders: tuple[TextEncoder, ...]
    unet_config: UNet3DConfig
    """The published model's."""
    unet_constants: Mapping[str, object]
    """Values that ``unet/config.json`` must have where it has the key at all."""
    pixels_per_latent: int
    """Along each side of a picture."""
    motion_versions: Mapping[str, MotionModuleConfig]
    motion_fallbacks: tuple[str, ...]
    """Versions to assume, in this order, for a positional table of unknown length."""
    noise_schedule: Mapping[str, Any]
    """Keyword arguments of diffusers' schedulers, as the motion modules need them."""
    memory: MemoryFactors
    base_models: Mapping[str, BaseModel]
    """By the name that a job uses; the first one that is installed is the default."""
    motion_modules: Mapping[str, MotionModule]
    """By the name that a job uses."""

    @property
    def parts(self) -> tuple[ModelPart, ...]:
        """All models of the family: UNet, VAE, text encoders."""
        return (self.unet, self.vae, *self.text_encoders)

    @property
    def folders(self) -> tuple[str, ...]:
        """Folders of a model in diffusers' layout: its parts and its tokenizers."""
        tokenizers = tuple(encoder.tokenizer for encoder in self.text_encoders)
        return (*(part.name for part in self.parts), *tokenizers)
