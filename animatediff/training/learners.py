"""What trains: models that turn a prepared batch into one loss for each of its items.

A learner prepares a batch outside of autograd (clips encoded, chance drawn for each
item by its place), computes the losses in ``forward``, which is all that runs under
accelerate's wrapper, and shows what it has learned.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..conditioning.encoders import encode_ids
from ..conditioning.tokens import tokenize
from ..controls.pictures import place_images
from ..controls.sparsectrl import SparseControl
from ..errors import ConfigurationError
from ..models.blocks import Layers
from ..models.context import ControlResiduals, TextContext, TimeContext
from ..models.sparse_controlnet import SparseControlNetModel
from ..models.unet import UNet3DConditionModel
from ..pipeline import AnimationInputs, AnimationPipeline
from .config import TrainConfig
from .data import SourceDataset
from .ema import move_towards
from .feeding import (
    FRAMEWISE,
    GlobalBatch,
    Item,
    LatentCache,
    Reader,
    Slot,
    generator,
    stratified_place,
)
from .lora_layers import ItemStrengths
from .loss import (
    ConsistencyGrid,
    NoiseSchedule,
    huber,
    min_snr,
    object_weights,
    place_timestep,
    weighted_mse,
)

Batch = dict[str, Tensor]
Entry = tuple[Slot, Item]
ENCODE_CHUNK = 8
_WORDS = 1  # numbers a chance of its own: whether a caption is left out


@dataclass(frozen=True, eq=False)
class Shown:
    """Something to look at: ``frames`` uint8 (f, H, W, 3), under ``name``."""

    name: str
    frames: np.ndarray


class Learner(nn.Module):
    """``forward``: a prepared batch -> losses (b,), float32. What has requires_grad is
    what trains.
    """

    def __init__(self, config: TrainConfig, batch: GlobalBatch) -> None:
        super().__init__()
        self.config, self.global_batch = config, batch

    def prepare(self, entries: Sequence[Entry], device: torch.device) -> Batch:
        """A batch on ``device``. Without gradients."""
        with torch.no_grad():
            prepared = [
                self.prepare_one(slot, item, slot.generator(self.config.seed))
                for slot, item in entries
            ]
            return {
                name: torch.stack([one[name] for one in prepared]).to(device)
                for name in prepared[0]
            }

    def prepare_one(self, slot: Slot, item: Item, chance: torch.Generator) -> Batch:
        raise NotImplementedError

    def trained(self) -> dict[str, nn.Parameter]:
        """What the optimizer moves, by name."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if parameter.requires_grad
        }

    def carried(self) -> dict[str, Tensor]:
        """What else changes in training, and belongs into a checkpoint."""
        return {}

    def after_step(self) -> None:
        """Called when the optimizer has moved the weights."""

    def before_export(self, clips: SourceDataset) -> None:
        """Called with the averaged weights in place."""

    def show(self, clips: SourceDataset) -> Iterable[Shown]:  # noqa: ARG002 - for those that override it
        """What the model makes of the validation's prompts, or of some clips."""
        return ()

    def measure(self, clips: SourceDataset) -> Mapping[str, float]:  # noqa: ARG002
        """Numbers of the validation."""
        return {}

    def recompute(self) -> None:
        """Save memory, see ``TrainConfig.gradient_checkpointing``."""
        for module in self.modules():
            if isinstance(module, Layers):
                module.gradient_checkpointing = True


@dataclass(eq=False)
class Encoders:
    """The frozen parts around a UNet: pixels and captions to what it sees. Not a part
    of the learner's own weights.
    """

    vae: Any
    text_encoder: Any
    tokenizer: Any

    def moments(self, pixels: Tensor) -> dict[str, Tensor]:
        """(f, 3, H, W), -1..1 -> the posterior's ``mean`` and ``std``, each (f, 4, h,
        w), not scaled, on the CPU.
        """
        means, stds = [], []
        for chunk in pixels.split(ENCODE_CHUNK):
            posterior = self.vae.encode(
                chunk.to(self.vae.device, memory_format=torch.channels_last)
            ).latent_dist
            means.append(posterior.mean.contiguous().cpu())
            stds.append(posterior.std.contiguous().cpu())
        return {"mean": torch.cat(means), "std": torch.cat(stds)}

    def texts(self, captions: Sequence[str]) -> Tensor:
        """(b, n, d)"""
        return encode_ids(
            self.text_encoder,
            torch.cat([tokenize(self.tokenizer, text).ids for text in captions]),
        )


class DenoisingLearner(Learner):
    """A UNet that learns to tell the noise in latents (arXiv 2112.10752, equation 2),
    of clips or of single frames.

    One timestep for all frames of a clip, noise of its own for each frame (arXiv
    2307.04725, section 4.2).
    """

    def __init__(
        self,
        config: TrainConfig,
        batch: GlobalBatch,
        unet: UNet3DConditionModel,
        encoders: Encoders,
        beta_schedule: str,
        single_frames: bool,
    ) -> None:
        super().__init__(config, batch)
        self.unet = unet
        self.encoders = encoders
        self.noise = NoiseSchedule.of(beta_schedule)
        self.single_frames = single_frames
        self.cache: LatentCache | None = None

    def prepare(self, entries: Sequence[Entry], device: torch.device) -> Batch:
        with torch.no_grad():
            prepared = super().prepare(self._with_latents(entries), device)
            words = [self.caption(slot, item) for slot, item in entries]
            return {**prepared, "text": self.encoders.texts(words).to(device)}

    def caption(self, slot: Slot, item: Item) -> str:
        """The item's words, or none in the share ``text_dropout`` of the cases."""
        chance = generator(self.config.seed, slot.step, slot.position, _WORDS)
        left_out = (
            float(torch.rand(1, generator=chance, dtype=torch.float64))
            < self.config.text_dropout
        )
        return "" if left_out else item["caption"]

    def _with_latents(self, entries: Sequence[Entry]) -> list[Entry]:
        """Items with ``mean`` and ``std``. What is kept is encoded by itself, so that
        it is the same for every run.
        """
        new = [i for i, (_, item) in enumerate(entries) if "mean" not in item]
        if self.cache is None and new:
            pixels = [entries[i][1]["pixels"] for i in new]
            moments = self.encoders.moments(torch.cat(pixels))
            parts = {
                name: tensor.split([len(each) for each in pixels])
                for name, tensor in moments.items()
            }
            encoded = [
                {name: split[place] for name, split in parts.items()}
                for place in range(len(new))
            ]
        else:
            encoded = [self.encoders.moments(entries[i][1]["pixels"]) for i in new]
        result = list(entries)
        for i, moments in zip(new, encoded, strict=True):
            slot, item = entries[i]
            result[i] = (slot, {**item, **moments})
            if self.cache is not None:
                kept = {
                    name: result[i][1][name]
                    for name in FRAMEWISE
                    if name in result[i][1]
                }
                self.cache.write(slot.epoch, slot.index, item["caption"], kept)
        return result

    def prepare_one(self, slot: Slot, item: Item, chance: torch.Generator) -> Batch:
        time_draw, frame_draw = torch.rand(
            2, generator=chance, dtype=torch.float64
        ).tolist()
        frames: dict[str, Tensor] = {
            name: item[name] for name in FRAMEWISE if name in item
        }
        if self.single_frames:
            count = len(frames["mean"])
            frame = int(frame_draw * count)
            frames = {
                name: tensor[frame : frame + 1] for name, tensor in frames.items()
            }
        mean, std = frames["mean"], frames["std"]
        drawn = torch.randn(mean.shape, generator=chance)
        latents = (
            (mean + std * drawn) * self.encoders.vae.config.scaling_factor
        ).transpose(0, 1)  # (4, f, h, w)
        prepared = {
            "latents": latents,
            "noise": torch.randn(latents.shape, generator=chance),
            **self.draw_timesteps(self._place(slot, time_draw)),
            **self.draw_condition(frames, chance),
        }
        if self.config.loss.object_weight:
            if "mask" not in frames:
                raise ConfigurationError(
                    "loss.object_weight: these data have no masks",
                    setting="loss.object_weight",
                )
            prepared["mask"] = F.adaptive_max_pool2d(frames["mask"], latents.shape[2:])[
                None
            ]
        return prepared

    def _place(self, slot: Slot, draw: float) -> float:
        if not self.config.loss.stratified:
            return draw
        return stratified_place(self.config.seed, slot, len(self.global_batch), draw)

    def draw_timesteps(self, place: float) -> Batch:
        """What is prepared for an item whose place among the timesteps is ``place``,
        0..1.
        """
        return {"timesteps": torch.tensor(place_timestep(place, self.config.loss))}

    def draw_condition(
        self,
        frames: Mapping[str, Tensor],  # noqa: ARG002
        chance: torch.Generator,  # noqa: ARG002
    ) -> Batch:
        """What is prepared for a branch, of an item's ``frames``."""
        return {}

    def forward(self, batch: Batch) -> Tensor:
        timesteps = batch["timesteps"]
        noisy = self.noise.add_noise(batch["latents"], batch["noise"], timesteps)
        time, text = (
            self.unet.embed_timesteps(timesteps),
            self.unet.encode_text(batch["text"]),
        )
        noise_pred = self.unet.predict(noisy, time, text, self.control(batch))
        weights = object_weights(batch.get("mask"), self.config.loss.object_weight)
        losses = weighted_mse(noise_pred, batch["noise"], weights)
        return min_snr(
            losses, self.noise.snr(timesteps), self.config.loss.min_snr_gamma
        )

    def control(self, batch: Batch) -> ControlResiduals | None:  # noqa: ARG002
        """What a branch beside the UNet adds."""
        return None

    def pipeline(self) -> AnimationPipeline:
        return AnimationPipeline(
            self.unet,
            self.encoders.vae,
            self.encoders.text_encoder,
            self.encoders.tokenizer,
            decode_chunk=4,
        )

    def show(self, clips: SourceDataset) -> Iterable[Shown]:
        wanted, data, pipeline = (
            self.config.validation,
            self.config.data,
            self.pipeline(),
        )
        for number, prompt in enumerate(wanted.prompts):
            controls = self.shown_control(pipeline, clips, number)
            for seed in wanted.seeds:
                inputs = AnimationInputs(
                    prompt=prompt,
                    num_frames=1 if self.single_frames else data.num_frames,
                    width=data.width,
                    height=data.height,
                    num_inference_steps=wanted.steps,
                    guidance_scale=wanted.guidance,
                    scheduler=wanted.scheduler,
                    seeds=(seed,),
                )
                done = pipeline.denoise(inputs, pipeline.encode(inputs, controls))
                yield Shown(f"{number}-{seed}", pipeline.decode_frames(done)[0].numpy())

    def shown_control(
        self,
        pipeline: AnimationPipeline,  # noqa: ARG002
        clips: SourceDataset,  # noqa: ARG002
        number: int,  # noqa: ARG002
    ) -> Sequence[SparseControl]:
        """What the validation's clip ``number`` is made to follow."""
        return ()


class MotionLoraLearner(DenoisingLearner):
    """A MotionLoRA. Items with a part of its motion, see ``data.py``, teach what that
    part of its strength does.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._strengths = ItemStrengths(self.unet)

    def prepare_one(self, slot: Slot, item: Item, chance: torch.Generator) -> Batch:
        return {
            **super().prepare_one(slot, item, chance),
            "strength": torch.as_tensor(item.get("strength", 1.0)),
        }

    def forward(self, batch: Batch) -> Tensor:
        self._strengths.values = batch.get(
            "strength"
        )  # stays: gradient checkpointing runs layers again
        return super().forward(batch)

    def pipeline(self) -> AnimationPipeline:
        self._strengths.values = None
        return super().pipeline()


class SparseControlLearner(DenoisingLearner):
    """A SparseCtrl branch beside a frozen UNet (arXiv 2311.16933, section 3.2)."""

    def __init__(self, branch: SparseControlNetModel, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.branch = branch

    def draw_condition(
        self, frames: Mapping[str, Tensor], chance: torch.Generator
    ) -> Batch:
        pictures = self._pictures(frames).transpose(0, 1)  # (c, f, H, W)
        num_frames = pictures.shape[1]
        chosen = self._frames(num_frames, chance)
        return {
            "condition": place_images(pictures[None, :, chosen], chosen, num_frames)[0]
        }

    def _pictures(self, frames: Mapping[str, Tensor]) -> Tensor:
        """Every frame as the branch would see it: the mean of its latents, or its
        sketch, 0..1. (f, c, H, W)
        """
        if self.branch.control.takes_latents:
            return frames["mean"] * self.encoders.vae.config.scaling_factor
        return (
            frames["sketches"]
            .expand(-1, self.branch.control.conditioning_channels, -1, -1)
            .float()
            / 255
        )

    def _frames(self, num_frames: int, chance: torch.Generator) -> list[int]:
        """Which frames are shown: the first alone, or one to ``most_frames`` anywhere."""
        section = self.config.control
        first, count = torch.rand(2, generator=chance, dtype=torch.float64).tolist()
        if first < section.first_frame:
            return [0]
        number = 1 + int(count * min(section.most_frames, num_frames))
        return torch.randperm(num_frames, generator=chance)[:number].tolist()

    def control(self, batch: Batch) -> ControlResiduals:
        condition = batch["condition"]  # (b, c + 1, f, H, W)
        embedded = torch.cat(
            [self.branch.embed_condition(one[None]) for one in condition]
        )
        time, text = (
            self.branch.embed_timesteps(batch["timesteps"]),
            self.branch.encode_text(batch["text"]),
        )
        return self.branch.residuals(embedded, condition.shape[2], time, text)

    def shown_control(
        self, pipeline: AnimationPipeline, clips: SourceDataset, number: int
    ) -> Sequence[SparseControl]:
        scribble = not self.branch.control.takes_latents
        _, item = Reader(clips, sketches=scribble)[Slot(0, 0, 0, number % len(clips))]
        if scribble:
            images = self._pictures({"sketches": item["sketches"][:1]}).transpose(0, 1)[
                None
            ]
        else:
            images = pipeline.encode_pixels(
                (item["pixels"][:1].transpose(0, 1)[None] + 1) / 2
            )
        return (SparseControl(self.branch, images),)


class ConsistencyLearner(DenoisingLearner):
    """A motion module that learns to jump to the end of its teacher's way (arXiv
    2310.04378, algorithm 1).

    The teacher is the model as it was, guided; the target is a moving average of the
    student. All three share the image model's weights.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        shared = {
            id(tensor): tensor
            for tensor in (*self.unet.parameters(), *self.unet.buffers())
            if _fixed(tensor)
        }
        self.teacher = copy.deepcopy(self.unet, dict(shared)).requires_grad_(False)
        self.target = copy.deepcopy(self.unet, dict(shared)).requires_grad_(False)
        for tensor in (
            self.unet.parameters()
        ):  # those that are shared were frozen before, and are still
            assert tensor.requires_grad != _fixed(tensor)
        self.grid = ConsistencyGrid(self.noise, self.config.lcm.solver_steps)

    def caption(self, slot: Slot, item: Item) -> str:  # noqa: ARG002
        """Always the words: the teacher's guidance is what takes them away."""
        return item["caption"]

    def prepare(self, entries: Sequence[Entry], device: torch.device) -> Batch:
        prepared = super().prepare(entries, device)
        with torch.no_grad():
            return {
                **prepared,
                "no_text": self.encoders.texts([""])
                .to(device)
                .expand_as(prepared["text"]),
            }

    def draw_timesteps(self, place: float) -> Batch:
        later, earlier = self.grid.pair(place)
        return {"timesteps": torch.tensor(later), "earlier": torch.tensor(earlier)}

    def forward(self, batch: Batch) -> Tensor:
        timesteps, earlier, config = (
            batch["timesteps"],
            batch["earlier"],
            self.config.lcm,
        )
        noisy = self.noise.add_noise(batch["latents"], batch["noise"], timesteps)
        prediction = self.grid.consistent(
            noisy, _noise_in(self.unet, noisy, timesteps, batch["text"]), timesteps
        )
        with torch.no_grad():
            with_text = _noise_in(self.teacher, noisy, timesteps, batch["text"])
            without = _noise_in(self.teacher, noisy, timesteps, batch["no_text"])
            guided = without + config.guidance * (with_text - without)
            before = self.grid.ddim(noisy, guided, timesteps, earlier)
            target = self.grid.consistent(
                before, _noise_in(self.target, before, earlier, batch["text"]), earlier
            )
        return huber(prediction, target, config.huber_c)

    def carried(self) -> dict[str, Tensor]:
        targets = dict(self.target.named_parameters())
        return {f"target.{name}": targets[name] for name in self._moving()}

    @torch.no_grad()
    def after_step(self) -> None:
        move_towards(
            self.carried().values(),
            self._moving().values(),
            1 - self.config.lcm.target_decay,
        )

    def _moving(self) -> dict[str, Tensor]:
        return {
            name: tensor
            for name, tensor in self.unet.named_parameters()
            if tensor.requires_grad
        }


def _fixed(tensor: Tensor) -> bool:
    return not tensor.requires_grad


def _noise_in(
    unet: UNet3DConditionModel, noisy: Tensor, timesteps: Tensor, text: Tensor
) -> Tensor:
    time: TimeContext = unet.embed_timesteps(timesteps)
    words: TextContext = unet.encode_text(text)
    return unet.predict(noisy, time, words).float()
