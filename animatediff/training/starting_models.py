"""The models that training starts from: loaded from files, or new."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from ..catalog import MOTION_MODULE_VERSIONS
from ..checkpoints import diffusers_folder
from ..checkpoints.files import check_keys_and_shapes
from ..checkpoints.motion_module import MotionModuleWeights, read_motion_module
from ..checkpoints.sparse_controlnet import read_sparse_controlnet
from ..conditioning.conditions import TextStack
from ..config import SPARSECTRL_RGB, SPARSECTRL_SCRIBBLE, UNet3DConfig
from ..controls.sparsectrl import build_sparse_controlnet
from ..errors import ConfigurationError
from ..families import DEFAULT
from ..job.prepared import LoraUse
from ..models.sparse_controlnet import SparseControlNetModel
from ..models.unet import UNet3DConditionModel
from ..pipeline import AnimationPipeline
from .config import TrainConfig, UNetShape, VaeShape
from .learners import Encoders
from .libraries import channels_last, diffusers_vae

ValueT = TypeVar("ValueT")
CPU = torch.device("cpu")
_FIRST_LOGVAR = -6
"""A VAE starts with little noise: one that starts with much learns to decode grey."""


def required(value: ValueT | None, key: str, stage: str) -> ValueT:
    """``value`` of the config's ``key``. Raises ConfigurationError if it is None."""
    if value is None:
        raise ConfigurationError(f"{key}: the stage {stage} needs it", setting=key)
    return value


def base_folder(config: TrainConfig) -> Path:
    """The folder of the base model. Raises ConfigurationError if there is none."""
    return Path(required(config.model.base, "model.base", config.stage))


def load_encoders(config: TrainConfig) -> Encoders:
    """The frozen models of the base, for a new UNet."""
    base, family = base_folder(config), DEFAULT
    vae = diffusers_folder.load_vae(base / family.vae.name, CPU, torch.float32)
    texts = diffusers_folder.load_texts(base, family, CPU, torch.float32)
    return Encoders(vae, TextStack(texts))


def load_base(
    config: TrainConfig, *, motion: bool
) -> tuple[UNet3DConditionModel, Encoders]:
    """The base model with everything that is added to it, in float32 and frozen.

    Raises ConfigurationError for a model of another noise schedule than the family's.
    """
    pipeline = AnimationPipeline.from_pretrained(base_folder(config))
    weights = _motion_weights(config, pipeline) if motion else None
    model = config.model
    loras = [
        LoraUse(lora.path, lora.strength, lora.ignore_file_alpha)
        for lora in model.loras
    ]
    pipeline.configure_weights(weights, model.single_file, loras)
    if pipeline.weights.noise_schedule != pipeline.family.noise_schedule:
        raise ConfigurationError(
            "the base model predicts the velocity, or has another noise schedule;"
            " training is for models that predict noise on the family's"
        )
    pipeline.unet.requires_grad_(False)
    return pipeline.unet, Encoders(pipeline.vae, pipeline.texts)


def _motion_weights(
    config: TrainConfig, pipeline: AnimationPipeline
) -> MotionModuleWeights | None:
    """The weights to load; None if the UNet gets new motion modules instead."""
    model, unet, family = config.model, pipeline.unet, pipeline.family
    file = required(model.motion_module, "model.motion_module", config.stage)
    if file != "new":
        return read_motion_module(file, family, version=model.motion_module_version)
    key = "model.motion_module_version"
    version = required(model.motion_module_version, key, config.stage)
    unet.set_motion(MOTION_MODULE_VERSIONS[version])
    channels_last(unet)
    if model.motion_module_from:
        _initialise(unet, read_motion_module(model.motion_module_from, family))
    return None


def _initialise(unet: UNet3DConditionModel, other: MotionModuleWeights) -> None:
    """Copy the layers that ``other`` has. Raises CheckpointError if shapes differ."""
    weights = unet.state_dict()
    shared = {key: weights[key] for key in other.tensors.keys() & weights.keys()}
    check_keys_and_shapes(other.name, other.tensors, shared)
    unet.load_state_dict(dict(other.tensors), strict=False)


def train_only(model: nn.Module, selects: Callable[[str], bool], key: str) -> None:
    """Train the parameters whose names ``selects`` accepts, and freeze the others.

    Raises ConfigurationError, which names the config's ``key``, if there are none.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(selects(name))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigurationError(f"{key}: it selects no parameter", setting=key)


def new_unet(shape: UNetShape, text_width: int) -> UNet3DConditionModel:
    """An image UNet with random weights.

    Raises ConfigurationError if it does not fit a text encoder of ``text_width``.
    """
    key = "model.unet.cross_attention_dim"
    if shape.cross_attention_dim != text_width:
        raise ConfigurationError(
            f"{key}: got {shape.cross_attention_dim}, allowed: {text_width}, the width"
            " of the text encoder",
            setting=key,
        )
    levels = len(shape.block_out_channels)
    config = UNet3DConfig(
        block_out_channels=tuple(shape.block_out_channels),
        attention_blocks=(True,) * (levels - 1) + (False,),
        layers_per_block=shape.layers_per_block,
        cross_attention_dim=shape.cross_attention_dim,
        num_attention_heads=(shape.attention_head_dim,) * levels,
        norm_num_groups=shape.norm_num_groups,
        sample_size=shape.sample_size,
    )
    unet = UNet3DConditionModel(config)
    channels_last(unet)
    return unet


def load_branch(config: TrainConfig, unet: UNet3DConditionModel) -> Any:
    """The SparseCtrl branch of ``model.control_file``, or a new one.

    A new branch starts as a copy of the UNet's encoder. Raises ConfigurationError if
    the file holds a branch of the other kind.
    """
    kind = required(config.model.control, "model.control", config.stage)
    if config.model.control_file is None:
        return _new_branch(kind, unet)
    weights = read_sparse_controlnet(config.model.control_file)
    if weights.config.takes_latents != (kind == "rgb"):
        raise ConfigurationError(
            f"model.control_file: {weights.name} is not a {kind} branch",
            setting="model.control",
        )
    return build_sparse_controlnet(unet, weights)


def _new_branch(kind: str, unet: UNet3DConditionModel) -> SparseControlNetModel:
    control = SPARSECTRL_RGB if kind == "rgb" else SPARSECTRL_SCRIBBLE
    branch = SparseControlNetModel(unet.config, control)
    channels_last(branch)
    keys = branch.state_dict().keys()
    copied = {
        key: tensor
        for key, tensor in unet.state_dict().items()
        if key in keys and ".motion_modules." not in key
    }
    branch.load_state_dict(copied, strict=False)
    return branch


def load_vae(config: TrainConfig) -> Any:
    """The base's VAE, or a new one of the shape ``model.vae``."""
    if config.model.vae is not None:
        return _new_vae(config.model.vae)
    folder = base_folder(config) / "vae"
    return diffusers_folder.load_vae(folder, CPU, torch.float32)


@torch.no_grad()
def _new_vae(shape: VaeShape) -> Any:
    levels = len(shape.block_out_channels)
    vae = diffusers_vae(
        block_out_channels=tuple(shape.block_out_channels),
        layers_per_block=shape.layers_per_block,
        norm_num_groups=shape.norm_num_groups,
        sample_size=shape.sample_size,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
    )
    vae.quant_conv.bias[vae.config.latent_channels :] = _FIRST_LOGVAR
    return vae
