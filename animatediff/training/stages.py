"""THE TABLE of stages: what each one trains, on what noise, and as which files it ends."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..catalog import MOTION_MODULE_VERSIONS
from ..checkpoints import diffusers_folder
from ..checkpoints.files import check_keys_and_shapes
from ..checkpoints.motion_module import MotionModuleWeights, read_motion_module
from ..checkpoints.sparse_controlnet import read_sparse_controlnet
from ..config import SPARSECTRL_RGB, SPARSECTRL_SCRIBBLE, UNet3DConfig
from ..controls.sparsectrl import build_sparse_controlnet
from ..errors import ConfigurationError
from ..families import DEFAULT
from ..job.clip import LoraFile
from ..models.sparse_controlnet import SparseControlNetModel
from ..models.unet import UNet3DConditionModel
from ..pipeline import AnimationPipeline
from . import lora_layers
from .config import TrainConfig
from .data import DataSource, SourceDataset
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
from .feeding import GlobalBatch, generator
from .learners import (
    ConsistencyLearner,
    DenoisingLearner,
    Encoders,
    Learner,
    MotionLoraLearner,
    SparseControlLearner,
)


@dataclass(frozen=True)
class Stage:
    """One row. ``beta_schedule`` None: no noise is learned. ``words_alone``: captions
    without pictures are enough.
    """

    title: str
    build: Callable[["Stage", TrainConfig, GlobalBatch], Learner]
    export: Callable[[Any, TrainConfig, Path, Origin], list[Path]]
    beta_schedule: str | None = None
    single_frames: bool = False
    words_alone: bool = False

    def can_use(self, source: DataSource) -> bool:
        """Whether the stage can be trained on ``source``."""
        if self.words_alone:
            return source.has_captions_alone
        return self.single_frames or source.moves

    def frames_read(self, num_frames: int, *, whole: bool) -> int:
        """How many of a clip's ``num_frames`` frames the stage reads."""
        if self.words_alone:
            return 0
        if self.single_frames and not whole:
            return 1
        return num_frames


# ------------------------------------------------------------------------------------------------
# what is trained


def _given(value: Any, key: str, stage: str) -> Any:
    if value is None:
        raise ConfigurationError(f"{key}: the stage {stage} needs it", setting=key)
    return value


def _base(config: TrainConfig) -> Path:
    return Path(_given(config.model.base, "model.base", config.stage))


def _encoders(config: TrainConfig) -> Encoders:
    """The frozen parts of the base, for a UNet that is new."""
    base, cpu = _base(config), torch.device("cpu")
    return Encoders(
        diffusers_folder.load_vae(base / "vae", cpu, torch.float32),
        diffusers_folder.load_text_encoder(
            base / "text_encoder", DEFAULT.text_encoders[0], cpu, torch.float32
        ),
        diffusers_folder.load_tokenizer(base / "tokenizer", DEFAULT.text_encoders[0]),
    )


def _loaded(
    config: TrainConfig, *, motion: bool
) -> tuple[UNet3DConditionModel, Encoders]:
    """The base model with all that is to be added to it, in float32, nothing of it
    training.
    """
    model = config.model
    pipeline = AnimationPipeline.from_pretrained(_base(config))
    weights = None
    if motion:
        file = _given(model.motion_module, "model.motion_module", config.stage)
        if file == "new":
            version = _given(
                model.motion_module_version, "model.motion_module_version", config.stage
            )
            pipeline.unet.set_motion(MOTION_MODULE_VERSIONS[version])
            pipeline.unet.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
            if model.motion_module_from:
                other = read_motion_module(model.motion_module_from, pipeline.family)
                _begin_with(pipeline.unet, other)
        else:
            weights = read_motion_module(
                file, pipeline.family, version=model.motion_module_version
            )
    loras = [LoraFile(path=lora.path, strength=lora.strength) for lora in model.loras]
    pipeline.configure_weights(weights, model.single_file, loras)
    encoders = Encoders(pipeline.vae, pipeline.text_encoder, pipeline.tokenizer)
    pipeline.unet.requires_grad_(False)
    return pipeline.unet, encoders


def _begin_with(unet: UNet3DConditionModel, other: MotionModuleWeights) -> None:
    """Give the motion modules those layers that ``other`` has; the rest stay new.
    Raises CheckpointError.
    """
    own = unet.state_dict()
    check_keys_and_shapes(
        other.name,
        other.tensors,
        {key: own[key] for key in other.tensors.keys() & own.keys()},
    )
    unet.load_state_dict(dict(other.tensors), strict=False)


def _denoising(
    stage: Stage, config: TrainConfig, batch: GlobalBatch, *parts: Any
) -> tuple[Any, ...]:
    unet, encoders = parts
    beta_schedule = config.loss.beta_schedule or stage.beta_schedule
    return config, batch, unet, encoders, beta_schedule, stage.single_frames


def _train_only(model: nn.Module, wanted: Callable[[str], bool], key: str) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(wanted(name))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigurationError(f"{key}: no parameter is meant by it", setting=key)


def _build_image(stage: Stage, config: TrainConfig, batch: GlobalBatch) -> Learner:
    unet, encoders = _loaded(config, motion=False)
    _train_only(
        unet,
        lambda name: any(part in name for part in config.model.trainable),
        "model.trainable",
    )
    return DenoisingLearner(*_denoising(stage, config, batch, unet, encoders))


def _build_new_unet(stage: Stage, config: TrainConfig, batch: GlobalBatch) -> Learner:
    shape, encoders = (
        _given(config.model.unet, "model.unet", config.stage),
        _encoders(config),
    )
    width = encoders.text_encoder.config.hidden_size
    if shape.cross_attention_dim != width:
        raise ConfigurationError(
            f"model.unet.cross_attention_dim: got {shape.cross_attention_dim}, and"
            f" the text encoder's width is {width}",
            setting="model.unet.cross_attention_dim",
        )
    levels = len(shape.block_out_channels)
    unet = UNet3DConditionModel(
        UNet3DConfig(
            block_out_channels=tuple(shape.block_out_channels),
            attention_blocks=(True,) * (levels - 1) + (False,),
            layers_per_block=shape.layers_per_block,
            cross_attention_dim=shape.cross_attention_dim,
            num_attention_heads=(shape.attention_head_dim,) * levels,
            norm_num_groups=shape.norm_num_groups,
            sample_size=shape.sample_size,
        )
    )
    unet.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return DenoisingLearner(*_denoising(stage, config, batch, unet, encoders))


def _build_spatial_lora(
    targets: str,
) -> Callable[[Stage, TrainConfig, GlobalBatch], Learner]:
    def build(stage: Stage, config: TrainConfig, batch: GlobalBatch) -> Learner:
        unet, encoders = _loaded(config, motion=False)
        lora_layers.inject(unet, config.lora, targets)
        return DenoisingLearner(*_denoising(stage, config, batch, unet, encoders))

    return build


def _build_motion(stage: Stage, config: TrainConfig, batch: GlobalBatch) -> Learner:
    unet, encoders = _loaded(config, motion=True)
    _train_only(unet, lambda name: ".motion_modules." in name, "model.motion_module")
    return DenoisingLearner(*_denoising(stage, config, batch, unet, encoders))


def _build_motion_lora(
    stage: Stage, config: TrainConfig, batch: GlobalBatch
) -> Learner:
    unet, encoders = _loaded(config, motion=True)
    lora_layers.inject(unet, config.lora, lora_layers.TEMPORAL_ATTENTION)
    return MotionLoraLearner(*_denoising(stage, config, batch, unet, encoders))


def _build_sparsectrl(stage: Stage, config: TrainConfig, batch: GlobalBatch) -> Learner:
    kind = _given(config.model.control, "model.control", config.stage)
    unet, encoders = _loaded(config, motion=True)
    if config.model.control_file:
        weights = read_sparse_controlnet(config.model.control_file)
        if weights.config.takes_latents != (kind == "rgb"):
            raise ConfigurationError(
                f"model.control_file: {weights.name} is no {kind} branch",
                setting="model.control",
            )
        branch = build_sparse_controlnet(unet, weights)
    else:
        branch = SparseControlNetModel(
            unet.config, SPARSECTRL_RGB if kind == "rgb" else SPARSECTRL_SCRIBBLE
        )
        branch.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        own, of_unet = branch.state_dict(), unet.state_dict()
        branch.load_state_dict(
            {
                key: of_unet[key]
                for key in own
                if key in of_unet and ".motion_modules." not in key
            },
            strict=False,
        )
    # its noisy input is zero, so that of its first convolution only the bias is ever
    # used
    _train_only(branch, lambda name: name != "conv_in.weight", "model.control")
    return SparseControlLearner(
        branch, *_denoising(stage, config, batch, unet, encoders)
    )


def _build_lcm(stage: Stage, config: TrainConfig, batch: GlobalBatch) -> Learner:
    if config.model.motion_module == "new":
        raise ConfigurationError(
            "model.motion_module: there is nothing to distil in a new one",
            setting="model",
        )
    unet, encoders = _loaded(config, motion=True)
    _train_only(unet, lambda name: ".motion_modules." in name, "model.motion_module")
    return ConsistencyLearner(*_denoising(stage, config, batch, unet, encoders))


def _build_vae(stage: Stage, config: TrainConfig, batch: GlobalBatch) -> Learner:  # noqa: ARG001 - a row's signature
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    shape = config.model.vae
    if shape is None:
        vae = diffusers_folder.load_vae(
            _base(config) / "vae", torch.device("cpu"), torch.float32
        )
    else:
        levels = len(shape.block_out_channels)
        make: Any = AutoencoderKL  # whose annotations are narrower than what it takes
        vae = make(
            block_out_channels=tuple(shape.block_out_channels),
            layers_per_block=shape.layers_per_block,
            norm_num_groups=shape.norm_num_groups,
            sample_size=shape.sample_size,
            latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
        )
        # begin with little noise: a decoder that learns from noise first learns gray
        with torch.no_grad():
            vae.quant_conv.bias[vae.config.latent_channels :] = -6
    learner = VaeLearner(config, batch, vae.to(memory_format=torch.channels_last))
    decoder = ("decoder.", "post_quant_conv.")
    _train_only(
        learner.vae,
        lambda name: not config.vae.decoder_only or name.startswith(decoder),
        "vae",
    )
    return learner


def _build_text_encoder(
    stage: Stage,  # noqa: ARG001
    config: TrainConfig,
    batch: GlobalBatch,
) -> Learner:
    from transformers import CLIPTextConfig, CLIPTextModel

    shape = _given(config.model.text_encoder, "model.text_encoder", config.stage)
    tokenizer = diffusers_folder.load_tokenizer(
        _base(config) / "tokenizer", DEFAULT.text_encoders[0]
    )
    clips = open_clips(config)
    count = config.text.vocabulary_captions
    used = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    for i in range(count):
        epoch, index = divmod(i, len(clips))
        used.update(tokenizer(clips.item(epoch, index)["caption"]).input_ids)
    rows = torch.zeros(len(tokenizer), dtype=torch.long)
    rows[sorted(used)] = torch.arange(1, len(used) + 1)
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(used) + 1,
            max_position_embeddings=tokenizer.model_max_length,
            projection_dim=shape.hidden_size,
            bos_token_id=int(rows[tokenizer.bos_token_id]),
            eos_token_id=int(rows[tokenizer.eos_token_id]),
            pad_token_id=int(rows[tokenizer.pad_token_id]),
            **shape.model_dump(),
        )
    )
    with torch.no_grad():  # CLIP's own 0.02 is too small a start for so narrow a tower
        for name, parameter in encoder.named_parameters():
            if name.endswith("token_embedding.weight"):
                nn.init.normal_(parameter, std=0.7)
            elif name.endswith("position_embedding.weight"):
                nn.init.normal_(parameter, std=0.05)
    return TextLearner(config, batch, encoder, tokenizer, rows, clips.attributes)


# ------------------------------------------------------------------------------------------------
# what comes of it


def _export_model(
    learner: DenoisingLearner, config: TrainConfig, folder: Path, origin: Origin
) -> list[Path]:
    beta_schedule = config.loss.beta_schedule or str(STAGES[config.stage].beta_schedule)
    return write_model(
        folder, learner.unet, learner.encoders, _base(config), beta_schedule, origin
    )


def _export_motion(
    learner: DenoisingLearner, _config: TrainConfig, folder: Path, origin: Origin
) -> list[Path]:
    return [
        write_weights(
            folder / "motion_module.safetensors", motion_weights(learner.unet), origin
        )
    ]


def _export_lora(
    name: str, layout: Callable[..., Mapping[str, Tensor]]
) -> Callable[[DenoisingLearner, TrainConfig, Path, Origin], list[Path]]:
    def export(
        learner: DenoisingLearner, config: TrainConfig, folder: Path, origin: Origin
    ) -> list[Path]:
        return [
            write_weights(
                folder / f"{name}.safetensors",
                layout(learner.unet, config.lora),
                origin,
            )
        ]

    return export


def _export_sparsectrl(
    learner: SparseControlLearner, config: TrainConfig, folder: Path, origin: Origin
) -> list[Path]:
    name = f"sparsectrl_{config.model.control}.safetensors"
    return [write_weights(folder / name, with_tables(learner.branch), origin)]


def _export_vae(
    learner: VaeLearner, _config: TrainConfig, folder: Path, origin: Origin
) -> list[Path]:
    write_vae(folder / "vae", learner.vae, origin)
    return [folder / "vae"]


def _export_text(
    learner: TextLearner, config: TrainConfig, folder: Path, origin: Origin
) -> list[Path]:
    from transformers import CLIPTextConfig

    tokenizer, small = learner.tokenizer, learner.encoder.config.to_dict()
    special = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id")
        for name in ("bos", "eos", "pad")
    }
    full = CLIPTextConfig(**{**small, **special, "vocab_size": len(tokenizer)})
    weights = dict(learner.encoder.state_dict())
    table = next(key for key in weights if key.endswith("token_embedding.weight"))
    weights[table] = learner.full_table()
    write_text_encoder(folder / "text_encoder", full, weights, origin)
    copy_folder(_base(config) / "tokenizer", folder / "tokenizer")
    return [folder / "text_encoder"]


_LINEAR, _SCALED = "linear", "scaled_linear"

STAGES: Mapping[str, Stage] = {
    "vae": Stage("autoencoder", _build_vae, _export_vae, single_frames=True),
    "text_encoder": Stage(
        "text tower of the synthetic world",
        _build_text_encoder,
        _export_text,
        words_alone=True,
    ),
    "text_to_image": Stage(
        "image UNet from nothing", _build_new_unet, _export_model, _SCALED, True
    ),
    "image": Stage("image UNet, finetuned", _build_image, _export_model, _SCALED, True),
    "lora": Stage(
        "image LoRA",
        _build_spatial_lora(lora_layers.SPATIAL_LAYERS),
        _export_lora("lora", lora_layers.kohya),
        _SCALED,
        True,
    ),
    "domain_adapter": Stage(
        "LoRA on spatial attention for the look of video frames",
        _build_spatial_lora(lora_layers.SPATIAL_ATTENTION),
        _export_lora("domain_adapter", lora_layers.processors),
        _SCALED,
        True,
    ),
    "motion": Stage("motion modules", _build_motion, _export_motion, _LINEAR),
    "motion_lora": Stage(
        "LoRA on temporal attention for one kind of motion",
        _build_motion_lora,
        _export_lora("motion_lora", lora_layers.processors),
        _LINEAR,
    ),
    "sparsectrl": Stage(
        "SparseCtrl branch", _build_sparsectrl, _export_sparsectrl, _LINEAR
    ),
    "lcm": Stage(
        "motion modules, distilled to few steps", _build_lcm, _export_motion, _LINEAR
    ),
}


def build_learner(config: TrainConfig, batch: GlobalBatch) -> Learner:
    """The learner of the config's stage, on the CPU. What is new in it follows from the
    config's seed.

    Raises ConfigurationError, AssetError, CheckpointError.
    """
    stage = STAGES[config.stage]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(config.seed).initial_seed())
        learner = stage.build(stage, config, batch).eval()
    if config.gradient_checkpointing:
        learner.recompute()
    return learner


def open_clips(config: TrainConfig, *, whole: bool = False) -> SourceDataset:
    """The config's data as its stage reads them.

    ``whole``: all frames of a clip, even if the stage needs only one. Raises
    ConfigurationError if the stage cannot use such data, or there are none.
    """
    stage, source = STAGES[config.stage], config.data
    if not stage.can_use(source):
        raise ConfigurationError(
            f"data.kind: the stage {config.stage} cannot use {source.kind}",
            setting="data.kind",
        )
    return source.open(
        stage.frames_read(source.num_frames, whole=whole),
        sketches=config.uses_sketches,
    )
