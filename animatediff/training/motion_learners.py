"""Learners of MotionLoRAs, SparseCtrl branches and distilled motion modules."""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..autoencoder import encode_pixels
from ..controls.pictures import place_images
from ..controls.sparsectrl import SparseControl
from ..models.context import ControlResiduals
from ..models.sparse_controlnet import SparseControlNetModel
from ..models.unet import UNet3DConditionModel
from ..pipeline import AnimationPipeline
from .feeding import Entry, Item, Reader, Slot
from .learners import Batch, DenoisingLearner, DenoisingSetup
from .libraries import move_towards, permutation, uniform
from .lora_layers import ItemStrengths
from .loss import ConsistencyGrid, huber
from .source import SourceDataset


class MotionLoraLearner(DenoisingLearner):
    """A MotionLoRA. Items with part of its motion teach the effect of part strength.

    See ``strength`` in ``data.py``.
    """

    def __init__(self, setup: DenoisingSetup) -> None:
        super().__init__(setup)
        self._strengths = ItemStrengths(self.unet)

    def prepare_one(self, slot: Slot, item: Item, rng: torch.Generator) -> Batch:
        """See ``Learner.prepare_one``."""
        strength = torch.as_tensor(item.get("strength", 1.0))
        return {**super().prepare_one(slot, item, rng), "strength": strength}

    def forward(self, batch: Batch) -> Tensor:
        """Losses (b,) of a prepared batch."""
        # not reset afterwards: gradient checkpointing runs the layers again
        self._strengths.values = batch.get("strength")
        return super().forward(batch)

    def pipeline(self) -> AnimationPipeline:
        """A pipeline with the LoRA at full strength."""
        self._strengths.values = None
        return super().pipeline()


class SparseControlLearner(DenoisingLearner):
    """A SparseCtrl branch beside a frozen UNet (arXiv 2311.16933, section 3.2)."""

    def __init__(self, setup: DenoisingSetup, branch: SparseControlNetModel) -> None:
        super().__init__(setup)
        self.branch = branch

    def draw_condition(
        self, frames: Mapping[str, Tensor], rng: torch.Generator
    ) -> Batch:
        """The frames at random places that the branch is conditioned on."""
        pictures = self._pictures(frames).transpose(0, 1)  # (c, f, H, W)
        num_frames = pictures.shape[1]
        places = self._draw_places(num_frames, rng)
        condition = place_images(pictures[None, :, places], places, num_frames)
        return {"condition": condition[0]}

    def _pictures(self, frames: Mapping[str, Tensor]) -> Tensor:
        """The branch's input for every frame: (f, c, H, W).

        The mean of its latents, or its sketch in 0..1.
        """
        control = self.branch.control
        if control.takes_latents:
            return frames["mean"] * self.encoders.scaling_factor
        sketches = frames["sketches"]
        return sketches.expand(-1, control.conditioning_channels, -1, -1).float() / 255

    def _draw_places(self, num_frames: int, rng: torch.Generator) -> list[int]:
        """The first frame alone, or one to ``most_frames`` frames anywhere."""
        section = self.config.control
        first_draw, count_draw = uniform(2, rng)
        if first_draw < section.first_frame:
            return [0]
        count = 1 + int(count_draw * min(section.most_frames, num_frames))
        return permutation(num_frames, rng)[:count]

    def control(self, batch: Batch) -> ControlResiduals:
        """The residuals of the branch."""
        conditions = batch["condition"]  # (b, c + 1, f, H, W)
        embedded = torch.cat(
            [self.branch.embed_condition(one[None]) for one in conditions]
        )
        time = self.branch.embed_timesteps(batch["timesteps"])
        text = self.branch.encode_text(batch["text"])
        return self.branch.residuals(embedded, conditions.shape[2], time, text)

    def validation_controls(
        self, pipeline: AnimationPipeline, clips: SourceDataset, number: int
    ) -> Sequence[SparseControl]:
        """The first frame of a clip."""
        scribble = not self.branch.control.takes_latents
        _, item = Reader(clips, sketches=scribble)[Slot(0, 0, 0, number % len(clips))]
        if scribble:
            first = self._pictures({"sketches": item["sketches"][:1]})
            images = first.transpose(0, 1)[None]
        else:
            first = (item["pixels"][:1].transpose(0, 1)[None] + 1) / 2
            images = encode_pixels(pipeline.vae, first)
        return (SparseControl(self.branch, images),)


class ConsistencyLearner(DenoisingLearner):
    """A motion module that learns to jump to the end of its teacher's path.

    The teacher is the model before training, with guidance; the target is a moving
    average of the student. All three share the frozen weights. arXiv 2310.04378,
    algorithm 1.
    """

    def __init__(self, setup: DenoisingSetup) -> None:
        super().__init__(setup)
        shared = _frozen_tensors(self.unet)
        self.teacher = _copy_sharing(self.unet, shared)
        self.target = _copy_sharing(self.unet, shared)
        self.grid = ConsistencyGrid(self.noise, self.config.lcm.solver_steps)

    def caption(self, slot: Slot, item: Item) -> str:  # noqa: ARG002 - overrides
        """The item's caption. It is never dropped: the teacher's guidance does that."""
        return item["caption"]

    @torch.no_grad()
    def prepare(self, entries: Sequence[Entry], device: torch.device) -> Batch:
        """See ``Learner.prepare``."""
        prepared = super().prepare(entries, device)
        empty = self.encoders.text.encode_captions([""]).to(device)
        return {**prepared, "no_text": empty.expand_as(prepared["text"])}

    def draw_timesteps(self, place: float) -> Batch:
        """A timestep of the grid, and the earlier one next to it."""
        later, earlier = self.grid.pair(place)
        return {"timesteps": torch.tensor(later), "earlier": torch.tensor(earlier)}

    def forward(self, batch: Batch) -> Tensor:
        """Losses (b,) of a prepared batch."""
        timesteps, text = batch["timesteps"], batch["text"]
        noisy = self.noise.add_noise(batch["latents"], batch["noise"], timesteps)
        noise_pred = _predict(self.unet, noisy, timesteps, text)
        prediction = self.grid.consistent(noisy, noise_pred, timesteps)
        target = self._target(noisy, batch)
        return huber(prediction, target, self.config.lcm.huber_c)

    @torch.no_grad()
    def _target(self, noisy: Tensor, batch: Batch) -> Tensor:
        """The target's result, one guided step of the teacher further on."""
        timesteps, earlier = batch["timesteps"], batch["earlier"]
        with_text = _predict(self.teacher, noisy, timesteps, batch["text"])
        without = _predict(self.teacher, noisy, timesteps, batch["no_text"])
        guided = without + self.config.lcm.guidance * (with_text - without)
        stepped = self.grid.ddim(noisy, guided, timesteps, earlier)
        noise_pred = _predict(self.target, stepped, earlier, batch["text"])
        return self.grid.consistent(stepped, noise_pred, earlier)

    def carried(self) -> dict[str, Tensor]:
        """The weights of the target."""
        targets = dict(self.target.named_parameters())
        return {f"target.{name}": targets[name] for name in self._student()}

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the target towards the student."""
        share = 1 - self.config.lcm.target_decay
        move_towards(self.carried().values(), self._student().values(), share)

    def _student(self) -> dict[str, Tensor]:
        return {
            name: parameter
            for name, parameter in self.unet.named_parameters()
            if parameter.requires_grad
        }


def _frozen_tensors(unet: UNet3DConditionModel) -> dict[int, Tensor]:
    """Parameters and buffers that do not train, by id as ``deepcopy`` wants them."""
    tensors = (*unet.parameters(), *unet.buffers())
    return {id(tensor): tensor for tensor in tensors if not tensor.requires_grad}


def _copy_sharing(
    unet: UNet3DConditionModel, shared: Mapping[int, Tensor]
) -> UNet3DConditionModel:
    """A frozen copy of ``unet`` that shares the tensors ``shared``."""
    return copy.deepcopy(unet, dict(shared)).requires_grad_(False)


def _predict(
    unet: UNet3DConditionModel, noisy: Tensor, timesteps: Tensor, text: Tensor
) -> Tensor:
    time, context = unet.embed_timesteps(timesteps), unet.encode_text(text)
    return unet.predict(noisy, time, context).float()
