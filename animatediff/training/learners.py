"""Learners: models that turn a prepared batch into one loss for each of its items.

A learner prepares a batch without autograd: it encodes clips and draws the random
numbers of each item from the item's place. ``forward`` computes the losses; nothing
else runs inside accelerate's wrapper. A learner also shows what it has learned.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..conditioning.conditions import TextStack
from ..controls.sparsectrl import SparseControl
from ..errors import ConfigurationError
from ..models.blocks import Layers
from ..models.context import ControlResiduals
from ..models.image_model import ImageModel
from ..models.unet import UNet3DConditionModel
from ..pipeline import AnimationPipeline
from ..sampling.inputs import AnimationInputs
from .config import TrainConfig
from .feeding import (
    FRAMEWISE,
    Entry,
    GlobalBatch,
    Item,
    LatentCache,
    Slot,
    generator,
    stratified_place,
)
from .libraries import pieces, uniform
from .loss import (
    NoiseSchedule,
    min_snr,
    object_weights,
    place_timestep,
    weighted_mse,
)
from .source import SourceDataset

Batch = dict[str, Tensor]
ENCODE_CHUNK = 8
"""Frames that the VAE encodes at once."""
DECODE_CHUNK = 4
"""Frames that the VAE decodes at once."""
_CAPTION_STREAM = 1
"""Numbers the generator that decides whether a caption is dropped."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture or clip for the validation: ``frames`` uint8 (f, H, W, 3)."""

    name: str
    frames: npt.NDArray[np.uint8]


class Learner(nn.Module):
    """Base of all learners. ``forward``: a prepared batch -> losses (b,), float32.

    Parameters with requires_grad are trained.
    """

    def __init__(self, config: TrainConfig, batch: GlobalBatch) -> None:
        super().__init__()
        self.config, self.global_batch = config, batch

    @torch.no_grad()
    def prepare(self, entries: Sequence[Entry], device: torch.device) -> Batch:
        """A batch on ``device``, without gradients."""
        prepared = [
            self.prepare_one(slot, item, slot.generator(self.config.seed))
            for slot, item in entries
        ]
        return {
            name: torch.stack([one[name] for one in prepared]).to(device)
            for name in prepared[0]
        }

    def prepare_one(self, slot: Slot, item: Item, rng: torch.Generator) -> Batch:
        """One item of a batch, on the CPU."""
        raise NotImplementedError

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that the optimizer updates, by name."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if parameter.requires_grad
        }

    def carried(self) -> dict[str, Tensor]:
        """Other tensors that change in training and belong in a checkpoint."""
        return {}

    def encoders_to(self, device: torch.device) -> None:
        """Move the frozen models that are not part of this module."""

    def after_step(self) -> None:
        """Update the carried tensors, after the optimizer's step."""

    def before_export(self, clips: SourceDataset) -> None:
        """Finish the model for export. The averaged weights are in place."""

    def show(self, clips: SourceDataset) -> Iterable[Sample]:  # noqa: ARG002 - overridden
        """Samples for the validation, from its prompts or from ``clips``."""
        return ()

    def measure(self, clips: SourceDataset) -> Mapping[str, float]:  # noqa: ARG002 - overridden
        """Figures for the validation."""
        return {}

    def recompute(self) -> None:
        """Save memory, see ``TrainConfig.gradient_checkpointing``."""
        for module in self.modules():
            if isinstance(module, Layers):
                module.gradient_checkpointing = True


@dataclass(eq=False)
class Encoders:
    """The frozen models around a UNet: they encode pixels and captions.

    They are not among the learner's own weights.
    """

    vae: Any
    text: TextStack

    @property
    def scaling_factor(self) -> float:
        """The factor from the VAE's latents to the UNet's."""
        return self.vae.config.scaling_factor

    def to(self, device: torch.device) -> None:
        """Move the models."""
        self.vae.to(device)
        self.text.to(device)

    def moments(self, pixels: Tensor) -> dict[str, Tensor]:
        """The posterior of frames (f, 3, H, W) in -1..1, on the CPU.

        ``mean`` and ``std``, each (f, 4, h, w), are not scaled.
        """
        means: list[Tensor] = []
        deviations: list[Tensor] = []
        for chunk in pieces(pixels, ENCODE_CHUNK):
            chunk = chunk.to(self.vae.device, memory_format=torch.channels_last)
            posterior = self.vae.encode(chunk).latent_dist
            means.append(posterior.mean.contiguous().cpu())
            deviations.append(posterior.std.contiguous().cpu())
        return {"mean": torch.cat(means), "std": torch.cat(deviations)}


@dataclass(frozen=True, eq=False)
class DenoisingSetup:
    """Everything that a DenoisingLearner is made of.

    ``single_frames``: it trains on one random frame of each clip.
    """

    config: TrainConfig
    batch: GlobalBatch
    unet: UNet3DConditionModel
    encoders: Encoders
    beta_schedule: str
    single_frames: bool


class DenoisingLearner(Learner):
    """A UNet that predicts the noise in latents (arXiv 2112.10752, equation 2).

    All frames of a clip share a timestep; each has its own noise (arXiv 2307.04725,
    section 4.2).
    """

    def __init__(self, setup: DenoisingSetup) -> None:
        super().__init__(setup.config, setup.batch)
        self.unet = setup.unet
        self.encoders = setup.encoders
        self.beta_schedule = setup.beta_schedule
        self.noise = NoiseSchedule.of(setup.beta_schedule)
        self.single_frames = setup.single_frames
        self.cache: LatentCache | None = None

    def encoders_to(self, device: torch.device) -> None:
        """See ``Learner.encoders_to``."""
        self.encoders.to(device)

    @torch.no_grad()
    def prepare(self, entries: Sequence[Entry], device: torch.device) -> Batch:
        """See ``Learner.prepare``."""
        prepared = super().prepare(self._with_latents(entries), device)
        captions = [self.caption(slot, item) for slot, item in entries]
        return {
            **prepared,
            "text": self.encoders.text.encode_captions(captions).to(device),
        }

    def caption(self, slot: Slot, item: Item) -> str:
        """The item's caption, or "" with the probability ``text_dropout``."""
        rng = generator(self.config.seed, slot.step, slot.position, _CAPTION_STREAM)
        (draw,) = uniform(1, rng)
        return "" if draw < self.config.text_dropout else item["caption"]

    def _with_latents(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """The entries with ``mean`` and ``std``."""
        if self.cache is None:
            return self._encoded(entries)
        return [(slot, self._cached(self.cache, slot, item)) for slot, item in entries]

    def _encoded(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        pixels: list[Tensor] = [item["pixels"] for _, item in entries]
        moments = self.encoders.moments(torch.cat(pixels))
        lengths = [len(frames) for frames in pixels]
        means = pieces(moments["mean"], lengths)
        deviations = pieces(moments["std"], lengths)
        return [
            (slot, {**item, "mean": mean, "std": std})
            for (slot, item), mean, std in zip(entries, means, deviations, strict=True)
        ]

    def _cached(self, cache: LatentCache, slot: Slot, item: Item) -> Item:
        """Encode an item by itself, so that every run caches the same latents."""
        if "mean" in item:
            return item
        item = {**item, **self.encoders.moments(item["pixels"])}
        cache.write(slot.epoch, slot.index, item["caption"], _framewise(item))
        return item

    def prepare_one(self, slot: Slot, item: Item, rng: torch.Generator) -> Batch:
        """See ``Learner.prepare_one``."""
        time_draw, frame_draw = uniform(2, rng)
        frames = _framewise(item)
        if self.single_frames:
            frames = _one_frame(frames, frame_draw)
        latents = self._draw_latents(frames, rng)
        prepared = {
            "latents": latents,
            "noise": torch.randn(latents.shape, generator=rng),
            **self.draw_timesteps(self._place(slot, time_draw)),
            **self.draw_condition(frames, rng),
        }
        if self.config.loss.object_weight:
            prepared["mask"] = _latent_mask(frames, latents)
        return prepared

    def _draw_latents(
        self, frames: Mapping[str, Tensor], rng: torch.Generator
    ) -> Tensor:
        """A sample of the posterior: (4, f, h, w)."""
        mean, std = frames["mean"], frames["std"]
        latents = mean + std * torch.randn(mean.shape, generator=rng)
        return (latents * self.encoders.scaling_factor).transpose(0, 1)

    def _place(self, slot: Slot, draw: float) -> float:
        if not self.config.loss.stratified:
            return draw
        return stratified_place(self.config.seed, slot, len(self.global_batch), draw)

    def draw_timesteps(self, place: float) -> Batch:
        """The timesteps of an item at ``place`` in 0..1 of their range."""
        return {"timesteps": torch.tensor(place_timestep(place, self.config.loss))}

    def draw_condition(
        self,
        frames: Mapping[str, Tensor],  # noqa: ARG002 - overridden
        rng: torch.Generator,  # noqa: ARG002 - overridden
    ) -> Batch:
        """The condition of a branch, from an item's ``frames``."""
        return {}

    def forward(self, batch: Batch) -> Tensor:
        """Losses (b,) of a prepared batch."""
        timesteps, loss = batch["timesteps"], self.config.loss
        noisy = self.noise.add_noise(batch["latents"], batch["noise"], timesteps)
        time = self.unet.embed_timesteps(timesteps)
        text = self.unet.encode_text(batch["text"])
        noise_pred = self.unet.predict(noisy, time, text, self.control(batch))
        weights = object_weights(batch.get("mask"), loss.object_weight)
        losses = weighted_mse(noise_pred, batch["noise"], weights)
        return min_snr(losses, self.noise.snr(timesteps), loss.min_snr_gamma)

    def control(self, batch: Batch) -> ControlResiduals | None:  # noqa: ARG002 - overridden
        """The residuals that a branch adds to the UNet."""
        return None

    def pipeline(self) -> AnimationPipeline:
        """A pipeline around the model as it is now."""
        models = ImageModel(self.unet, self.encoders.vae, self.encoders.text.models)
        return AnimationPipeline(models, decode_chunk=DECODE_CHUNK)

    def show(self, clips: SourceDataset) -> Iterable[Sample]:
        """A clip of each prompt and seed of the validation."""
        section, pipeline = self.config.validation, self.pipeline()
        for number, prompt in enumerate(section.prompts):
            controls = self.validation_controls(pipeline, clips, number)
            for seed in section.seeds:
                inputs = self._inputs(prompt, seed)
                conditions = pipeline.encode(inputs, controls)
                latents = pipeline.denoise(inputs, conditions)
                frames = pipeline.decode_frames(latents)[0].numpy()
                yield Sample(f"{number}-{seed}", frames)

    def _inputs(self, prompt: str, seed: int) -> AnimationInputs:
        section, data = self.config.validation, self.config.data
        return AnimationInputs(
            prompt=prompt,
            num_frames=1 if self.single_frames else data.num_frames,
            width=data.width,
            height=data.height,
            num_inference_steps=section.steps,
            guidance_scale=section.guidance,
            scheduler=section.scheduler,
            seeds=(seed,),
        )

    def validation_controls(
        self,
        pipeline: AnimationPipeline,  # noqa: ARG002 - overridden
        clips: SourceDataset,  # noqa: ARG002 - overridden
        number: int,  # noqa: ARG002 - overridden
    ) -> Sequence[SparseControl]:
        """The controls of the validation's clip ``number``."""
        return ()


def _framewise(item: Item) -> dict[str, Tensor]:
    return {name: item[name] for name in FRAMEWISE if name in item}


def _one_frame(frames: Mapping[str, Tensor], draw: float) -> dict[str, Tensor]:
    frame = int(draw * len(frames["mean"]))
    return {name: tensor[frame : frame + 1] for name, tensor in frames.items()}


def _latent_mask(frames: Mapping[str, Tensor], latents: Tensor) -> Tensor:
    """The item's mask at the size of its latents: (1, f, h, w)."""
    if "mask" not in frames:
        raise ConfigurationError(
            "loss.object_weight: these data have no masks",
            setting="loss.object_weight",
        )
    return F.adaptive_max_pool2d(frames["mask"], latents.shape[2:])[None]
