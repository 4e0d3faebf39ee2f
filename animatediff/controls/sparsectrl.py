"""SparseCtrl: images that single frames follow (arXiv 2311.16933)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..checkpoints.files import check_keys_and_shapes
from ..checkpoints.sparse_controlnet import (
    SparseControlNetWeights,
    read_sparse_controlnet,
)
from ..errors import InvalidRequest
from ..models.context import ControlResiduals, Schedule, TextContext
from ..models.motion_module import reset_positional_tables
from ..models.sparse_controlnet import SparseControlNetModel
from ..models.unet import UNet3DConditionModel
from ..transfers import send_weights
from .base import Run
from .pictures import condition_images, place_images


def build_sparse_controlnet(
    unet: UNet3DConditionModel,
    weights: SparseControlNetWeights,
    attention: str = "sdpa",
) -> SparseControlNetModel:
    """Build the branch of ``weights`` with the widths, device and dtype of ``unet``.

    ``unet`` is not changed. Raises CheckpointError unless every key and shape fits.
    """
    with torch.device("meta"):
        model = SparseControlNetModel(unet.config, weights.config, attention)
    check_keys_and_shapes(weights.name, dict(weights.tensors), model.state_dict())
    device, dtype = unet.device, unet.dtype
    tensors = send_weights(weights.tensors, device, dtype)
    model.load_state_dict(tensors, assign=True)
    reset_positional_tables(model, device, dtype)
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return model.eval().requires_grad_(False)


def load_sparse_controlnet(
    path: str | Path, unet: UNet3DConditionModel, attention: str = "sdpa"
) -> SparseControlNetModel:
    """Load a SparseCtrl file as a branch for ``unet``.

    Raises AssetError and CheckpointError.
    """
    return build_sparse_controlnet(unet, read_sparse_controlnet(path), attention)


def control_images(
    model: SparseControlNetModel,
    vae: Any,
    pictures: Sequence[Image.Image],
    width: int,
    height: int,
    *,
    normalize: bool = False,
) -> Tensor:
    """Turn pictures into the images that ``model`` takes, (1, c, n, h, w).

    These are pixels 0..1, or the means of their latents. Each picture is cropped to the
    frames' aspect about its centre; see also ``normalize_picture``.
    """
    return condition_images(
        vae,
        pictures,
        width,
        height,
        normalize=normalize,
        takes_latents=model.control.takes_latents,
    )


@dataclass(frozen=True, eq=False)
class SparseControl:
    """A branch and the images of single frames.

    ``images`` (1, c, n, h, w) come from ``control_images``. The n
    ``frame_indices`` are the images' places; negative ones count from the end.
    ``start`` and ``end`` are fractions of the steps.
    """

    model: SparseControlNetModel
    images: Tensor
    frame_indices: Sequence[int] = (0,)
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0

    @property
    def max_frames(self) -> int | None:
        """The most frames that the branch's motion modules can handle."""
        return self.model.motion.max_length if self.model.motion else None

    def prepare(self, run: Run) -> "SparseBranch":
        """Compute all that is the same in every step. Raises InvalidRequest."""
        self._check(run)
        placed = place_images(self.images, self.frame_indices, run.num_frames)
        return SparseBranch(
            self,
            embedded=self.model.embed_condition(placed),
            schedule=self.model.schedule(run.timesteps),
            text=self.model.encode_text(run.embeds),
            num_steps=len(run.timesteps),
        )

    def _check(self, run: Run) -> None:
        for name, value in (("start", self.start), ("end", self.end)):
            if not 0 <= value <= 1:
                raise InvalidRequest(f"controls.{name}", value, "0 to 1")
        if not math.isfinite(self.strength):
            raise InvalidRequest("controls.strength", self.strength, "a finite number")
        factor = run.downscale if self.model.control.takes_latents else 1
        channels = self.model.control.conditioning_channels
        size = (channels, run.height // factor, run.width // factor)
        shape = tuple(self.images.shape)
        if len(shape) != 5 or (shape[1], *shape[3:]) != size:
            allowed = "the shape (1, {}, n, {}, {})".format(*size)
            raise InvalidRequest("controls.images", str(shape), allowed)


@dataclass(frozen=True, eq=False)
class SparseBranch:
    """A branch that is ready for a run; it is a ``Control``.

    ``embedded`` (f, c, h, w) is the condition of every frame of the clip.
    """

    control: SparseControl
    embedded: Tensor
    schedule: Schedule
    text: TextContext
    num_steps: int

    def residuals(
        self, sample: Tensor, step: int, frames: Sequence[int]
    ) -> ControlResiduals | None:
        """Return the branch's residuals; None outside of its share of the steps.

        They do not depend on the content of ``sample``, so the branch runs once for all
        videos of a batch.
        """
        if not self._acts_at(step):
            return None
        row = self.schedule.row(step)
        embedded = self._of_frames(frames)
        residuals = self.control.model.predict(embedded, row, self.text)
        texts = self.text[0][0].shape[0]
        videos = sample.shape[0] // texts
        return residuals.scaled(self.control.strength).repeated(videos, len(frames))

    def _acts_at(self, step: int) -> bool:
        start, end = step / self.num_steps, (step + 1) / self.num_steps
        is_inside = self.control.start <= start and end <= self.control.end
        return is_inside and self.control.strength != 0

    def _of_frames(self, frames: Sequence[int]) -> Tensor:
        if frames == range(len(self.embedded)):  # the whole clip, without a copy
            return self.embedded
        return self.embedded[list(frames)]
