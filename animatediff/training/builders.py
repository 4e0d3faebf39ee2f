"""The builders of learners, one for each kind of stage."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..checkpoints import diffusers_folder
from ..errors import ConfigurationError
from ..families import DEFAULT
from ..models.unet import UNet3DConditionModel
from . import lora_layers
from .config import TrainConfig
from .encoder_learners import TextLearner, VaeLearner
from .feeding import GlobalBatch
from .learners import DenoisingLearner, DenoisingSetup, Encoders
from .motion_learners import (
    ConsistencyLearner,
    MotionLoraLearner,
    SparseControlLearner,
)
from .source import SourceDataset
from .starting_models import (
    base_folder,
    load_base,
    load_branch,
    load_encoders,
    load_vae,
    new_unet,
    required,
    train_only,
)
from .text_model import new_text_encoder, small_table

DECODER = ("decoder.", "post_quant_conv.")
"""Prefixes of the VAE's weights that latents do not depend on."""


@dataclass(frozen=True, eq=False)
class Plan:
    """The input of a builder: the config, its batch, and the stage's own values.

    ``open_clips`` opens the data, for builders that read them.
    """

    config: TrainConfig
    batch: GlobalBatch
    beta_schedule: str
    single_frames: bool
    open_clips: Callable[[], SourceDataset]

    def setup(self, unet: UNet3DConditionModel, encoders: Encoders) -> DenoisingSetup:
        """The setup of a denoising learner."""
        return DenoisingSetup(
            self.config,
            self.batch,
            unet,
            encoders,
            self.beta_schedule,
            self.single_frames,
        )


def build_image(plan: Plan) -> DenoisingLearner:
    """An image UNet that is finetuned."""
    unet, encoders = load_base(plan.config, motion=False)
    parts = plan.config.model.trainable
    train_only(
        unet, lambda name: any(part in name for part in parts), "model.trainable"
    )
    return DenoisingLearner(plan.setup(unet, encoders))


def build_new_unet(plan: Plan) -> DenoisingLearner:
    """An image UNet from scratch."""
    config = plan.config
    shape = required(config.model.unet, "model.unet", config.stage)
    encoders = load_encoders(config)
    unet = new_unet(shape, sum(encoders.text.widths))
    return DenoisingLearner(plan.setup(unet, encoders))


def build_style_lora(plan: Plan) -> DenoisingLearner:
    """A LoRA on all spatial layers."""
    return _build_spatial_lora(plan, lora_layers.SPATIAL_LAYERS)


def build_domain_adapter(plan: Plan) -> DenoisingLearner:
    """A LoRA on spatial attention alone."""
    return _build_spatial_lora(plan, lora_layers.SPATIAL_ATTENTION)


def _build_spatial_lora(plan: Plan, targets: str) -> DenoisingLearner:
    unet, encoders = load_base(plan.config, motion=False)
    lora_layers.inject(unet, plan.config.lora, targets)
    return DenoisingLearner(plan.setup(unet, encoders))


def build_motion(plan: Plan) -> DenoisingLearner:
    """Motion modules."""
    return DenoisingLearner(_motion_setup(plan))


def build_lcm(plan: Plan) -> ConsistencyLearner:
    """Motion modules that are distilled. Raises ConfigurationError for new ones."""
    if plan.config.model.motion_module == "new":
        raise ConfigurationError(
            "model.motion_module: a new module cannot be distilled", setting="model"
        )
    return ConsistencyLearner(_motion_setup(plan))


def _motion_setup(plan: Plan) -> DenoisingSetup:
    unet, encoders = load_base(plan.config, motion=True)
    train_only(unet, lambda name: ".motion_modules." in name, "model.motion_module")
    return plan.setup(unet, encoders)


def build_motion_lora(plan: Plan) -> MotionLoraLearner:
    """A LoRA on temporal attention."""
    unet, encoders = load_base(plan.config, motion=True)
    lora_layers.inject(unet, plan.config.lora, lora_layers.TEMPORAL_ATTENTION)
    return MotionLoraLearner(plan.setup(unet, encoders))


def build_sparsectrl(plan: Plan) -> SparseControlLearner:
    """A SparseCtrl branch."""
    config = plan.config
    required(config.model.control, "model.control", config.stage)
    unet, encoders = load_base(config, motion=True)
    branch = load_branch(config, unet)
    # the noisy input is zero, so only the bias of the first convolution has an effect
    train_only(branch, lambda name: name != "conv_in.weight", "model.control")
    return SparseControlLearner(plan.setup(unet, encoders), branch)


def build_vae(plan: Plan) -> VaeLearner:
    """An autoencoder, or its decoder alone."""
    config = plan.config
    vae = load_vae(config).to(memory_format=torch.channels_last)
    learner = VaeLearner(config, plan.batch, vae)
    prefixes = DECODER if config.vae.decoder_only else ""
    train_only(learner.vae, lambda name: name.startswith(prefixes), "vae")
    return learner


def build_text_encoder(plan: Plan) -> TextLearner:
    """A small text encoder: the family's first."""
    config = plan.config
    shape = required(config.model.text_encoder, "model.text_encoder", config.stage)
    row = DEFAULT.text_encoders[0]
    tokenizer = diffusers_folder.load_tokenizer(
        base_folder(config) / row.tokenizer, row
    )
    clips = plan.open_clips()
    rows = small_table(tokenizer, clips, config.text.vocabulary_captions)
    encoder = new_text_encoder(shape, tokenizer, rows)
    return TextLearner(config, plan.batch, encoder, tokenizer, rows, clips.attributes)
