"""The exports of each stage: the files of a learner, in the published layouts."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..families import DEFAULT
from . import lora_layers
from .config import TrainConfig
from .encoder_learners import TextLearner, VaeLearner
from .export import (
    Origin,
    copy_folder,
    motion_weights,
    with_tables,
    write_model,
    write_text_encoder,
    write_vae,
    write_weights,
)
from .learners import DenoisingLearner
from .motion_learners import SparseControlLearner
from .starting_models import base_folder
from .text_model import full_config


def export_model(
    learner: DenoisingLearner, config: TrainConfig, folder: Path, origin: Origin
) -> list[Path]:
    """A whole model, as a folder and as a single file."""
    base, schedule = base_folder(config), learner.beta_schedule
    return write_model(folder, learner.unet, learner.encoders, base, schedule, origin)


def export_motion(
    learner: DenoisingLearner, _config: TrainConfig, folder: Path, origin: Origin
) -> list[Path]:
    """A motion module."""
    weights = motion_weights(learner.unet)
    return _write(folder / "motion_module.safetensors", weights, origin)


def export_lora(
    learner: DenoisingLearner, config: TrainConfig, folder: Path, origin: Origin
) -> list[Path]:
    """A LoRA in kohya's layout."""
    weights = lora_layers.kohya(learner.unet, config.lora)
    return _write(folder / "lora.safetensors", weights, origin)


def export_processors(
    learner: DenoisingLearner, config: TrainConfig, folder: Path, origin: Origin
) -> list[Path]:
    """A domain adapter or a MotionLoRA, named after the stage."""
    weights = lora_layers.processors(learner.unet, config.lora)
    return _write(folder / f"{config.stage}.safetensors", weights, origin)


def export_sparsectrl(
    learner: SparseControlLearner, config: TrainConfig, folder: Path, origin: Origin
) -> list[Path]:
    """A SparseCtrl branch."""
    path = folder / f"sparsectrl_{config.model.control}.safetensors"
    return _write(path, with_tables(learner.branch), origin)


def export_vae(
    learner: VaeLearner, _config: TrainConfig, folder: Path, origin: Origin
) -> list[Path]:
    """A VAE in diffusers' layout."""
    write_vae(folder / "vae", learner.vae, origin)
    return [folder / "vae"]


def export_text_encoder(
    learner: TextLearner, config: TrainConfig, folder: Path, origin: Origin
) -> list[Path]:
    """A text encoder with the whole vocabulary, and its tokenizer."""
    weights = dict(learner.encoder.state_dict())
    table = next(key for key in weights if key.endswith("token_embedding.weight"))
    weights[table] = learner.full_table()
    row = DEFAULT.text_encoders[0]
    settings = full_config(learner.encoder, learner.tokenizer)
    write_text_encoder(folder / row.name, settings, weights, origin)
    copy_folder(base_folder(config) / row.tokenizer, folder / row.tokenizer)
    return [folder / row.name]


def _write(path: Path, weights: Mapping[str, Tensor], origin: Origin) -> list[Path]:
    return [write_weights(path, weights, origin)]
