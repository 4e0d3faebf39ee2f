"""The table of stages: what each one trains, on which noise, and what it exports."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError
from . import builders, stage_exports
from .builders import Plan
from .config import StageName, TrainConfig
from .export import Origin
from .feeding import GlobalBatch, generator
from .learners import Learner
from .libraries import seeded
from .source import DataSource, SourceDataset


@dataclass(frozen=True)
class Stage:
    """One row of the table.

    ``beta_schedule``: the noise of stages that denoise. ``single_frames``: one frame of
    each clip is enough. ``captions_alone``: no pictures are needed.
    """

    title: str
    build: Callable[[Plan], Learner]
    export: Callable[[Any, TrainConfig, Path, Origin], list[Path]]
    beta_schedule: str = ""
    single_frames: bool = False
    captions_alone: bool = False

    def can_use(self, source: DataSource) -> bool:
        """Whether the stage can be trained on ``source``."""
        if self.captions_alone:
            return source.has_captions_alone
        return self.single_frames or source.moves

    def frames_read(self, num_frames: int, *, whole: bool) -> int:
        """How many of a clip's ``num_frames`` frames the stage reads."""
        if self.captions_alone:
            return 0
        if self.single_frames and not whole:
            return 1
        return num_frames


_LINEAR, _SCALED = "linear", "scaled_linear"

STAGES: Mapping[StageName, Stage] = {
    "vae": Stage(
        "autoencoder",
        builders.build_vae,
        stage_exports.export_vae,
        single_frames=True,
    ),
    "text_encoder": Stage(
        "small text encoder from scratch",
        builders.build_text_encoder,
        stage_exports.export_text_encoder,
        captions_alone=True,
    ),
    "text_to_image": Stage(
        "image UNet from scratch",
        builders.build_new_unet,
        stage_exports.export_model,
        _SCALED,
        single_frames=True,
    ),
    "image": Stage(
        "image UNet, finetuned",
        builders.build_image,
        stage_exports.export_model,
        _SCALED,
        single_frames=True,
    ),
    "lora": Stage(
        "image LoRA",
        builders.build_style_lora,
        stage_exports.export_lora,
        _SCALED,
        single_frames=True,
    ),
    "domain_adapter": Stage(
        "LoRA on spatial attention for the look of video frames",
        builders.build_domain_adapter,
        stage_exports.export_processors,
        _SCALED,
        single_frames=True,
    ),
    "motion": Stage(
        "motion modules",
        builders.build_motion,
        stage_exports.export_motion,
        _LINEAR,
    ),
    "motion_lora": Stage(
        "LoRA on temporal attention for one kind of motion",
        builders.build_motion_lora,
        stage_exports.export_processors,
        _LINEAR,
    ),
    "sparsectrl": Stage(
        "SparseCtrl branch",
        builders.build_sparsectrl,
        stage_exports.export_sparsectrl,
        _LINEAR,
    ),
    "lcm": Stage(
        "motion modules, distilled to few steps",
        builders.build_lcm,
        stage_exports.export_motion,
        _LINEAR,
    ),
}


def build_learner(config: TrainConfig, batch: GlobalBatch) -> Learner:
    """The learner of the config's stage, on the CPU.

    New weights follow from the config's seed. Raises ConfigurationError, AssetError or
    CheckpointError.
    """
    stage = STAGES[config.stage]
    plan = Plan(
        config,
        batch,
        config.loss.beta_schedule or stage.beta_schedule,
        stage.single_frames,
        partial(open_clips, config),
    )
    with seeded(generator(config.seed).initial_seed()):
        learner = stage.build(plan).eval()
    if config.gradient_checkpointing:
        learner.recompute()
    return learner


def open_clips(config: TrainConfig, *, whole: bool = False) -> SourceDataset:
    """The config's data as its stage reads them.

    ``whole``: all frames of a clip, even if the stage needs only one. Raises
    ConfigurationError if the stage cannot use such data, or if there are none.
    """
    stage, source = STAGES[config.stage], config.data
    if not stage.can_use(source):
        raise ConfigurationError(
            f"data.kind: the stage {config.stage} cannot use {source.kind}",
            setting="data.kind",
        )
    num_frames = stage.frames_read(source.num_frames, whole=whole)
    return source.open(num_frames, sketches=config.uses_sketches)
