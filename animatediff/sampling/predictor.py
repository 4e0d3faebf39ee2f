"""Predictors of noise, from the UNet outwards.

Each one is a ``Predict``. Guidance wraps another one, and so can whatever changes how
often, or on which frames, the UNet runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..controls.base import Control, total_residuals
from ..job.clip import ContextWindows
from ..models.context import ControlResiduals, Schedule, TextContext
from ..models.unet import UNet3DConditionModel
from ..transfers import send
from .guidance import guide


class Predict(Protocol):
    """Predicts the noise in ``sample`` (b, c, f, h, w) at ``step`` (from 0).

    ``frames`` are the places of the sample's f frames in the clip.
    """

    def __call__(self, sample: Tensor, step: int, frames: Sequence[int], /) -> Tensor:
        """Return the noise, (b, c, f, h, w)."""
        ...


@dataclass(frozen=True, eq=False)
class UNetPredictor:
    """The UNet on one or several texts: (b, c, f, h, w) to (texts b, c, f, h, w).

    ``text`` has the keys and values of all texts, each repeated for every video. What
    the texts share is computed once, see ``UNet3DConditionModel.predict``.
    """

    unet: UNet3DConditionModel
    schedule: Schedule
    text: TextContext
    texts: int
    controls: Sequence[Control] = ()

    def __call__(self, sample: Tensor, step: int, frames: Sequence[int]) -> Tensor:
        """Return the noise for each text, in float32 or better."""
        dtype = self.unet.dtype
        sample = sample.to(dtype)
        residuals = self._residuals(sample, step, frames) if self.controls else None
        row = self.schedule.row(step)
        noise_pred = self.unet.predict(sample, row, self.text, residuals)
        return noise_pred.to(torch.promote_types(dtype, torch.float32))

    def _residuals(
        self, sample: Tensor, step: int, frames: Sequence[int]
    ) -> ControlResiduals | None:
        of_texts = sample.repeat(self.texts, 1, 1, 1, 1)
        return total_residuals(self.controls, of_texts, step, frames)


@dataclass(frozen=True, eq=False)
class OneByOne:
    """Several predictors, one after the other: half the memory for two texts."""

    predictors: Sequence[Predict]

    def __call__(self, sample: Tensor, step: int, frames: Sequence[int]) -> Tensor:
        """Return the predictions, joined along the batch."""
        predictions = [predict(sample, step, frames) for predict in self.predictors]
        return torch.cat(predictions)


@dataclass(frozen=True, eq=False)
class Guided:
    """Classifier-free guidance over a predictor for [negative, prompt]."""

    predict: Predict
    guidance_scale: float

    def __call__(self, sample: Tensor, step: int, frames: Sequence[int]) -> Tensor:
        """Return the guided noise, (b, c, f, h, w)."""
        return guide(self.predict(sample, step, frames), self.guidance_scale)


@dataclass(frozen=True, eq=False)
class Windowed:
    """A predictor that runs on overlapping windows of a clip, one after the other.

    Predictions for a frame are averaged over the windows that hold it.
    """

    predict: Predict
    context: ContextWindows

    def __call__(self, sample: Tensor, step: int, frames: Sequence[int]) -> Tensor:
        """Return the noise of the whole clip, (b, c, f, h, w)."""
        layout = self.context.layout(len(frames))
        total, weights = torch.zeros_like(sample), [0.0] * len(frames)
        for window in self.context.windows(layout, step):
            shares = self.context.weights(layout, window)
            places = send(torch.tensor(window), sample.device)
            of_clip = [frames[place] for place in window]
            predicted = self.predict(sample.index_select(2, places), step, of_clip)
            total.index_add_(2, places, predicted * _for_frames(shares, sample))
            for place, share in zip(window, shares, strict=True):
                weights[place] += share
        return total / _for_frames(weights, sample)


def _for_frames(values: Sequence[float], like: Tensor) -> Tensor:
    """Return a number for each frame of ``like`` (b, c, f, h, w), as (f, 1, 1)."""
    return send(torch.tensor(values, dtype=like.dtype), like.device)[:, None, None]
