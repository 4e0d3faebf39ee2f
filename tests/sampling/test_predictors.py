"""Wrappers of a predictor: each control follows the frames that a predictor runs on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from animatediff.models.context import ControlResiduals, Schedule
from animatediff.sampling.predictor import Guided, OneByOne, Predict, UNetPredictor


class FrameNumbers:
    """A control that adds the place of each frame in the clip."""

    def residuals(
        self, sample: Tensor, step: int, frames: Sequence[int]
    ) -> ControlResiduals:
        assert step == 1
        videos = len(sample)
        return ControlResiduals([], torch.tensor(frames).float().repeat(videos))


class Adding:
    """A UNet whose noise is what the controls add, for each text and video."""

    dtype = torch.float32

    def predict(
        self, sample: Tensor, _row: Any, _text: Any, residuals: ControlResiduals
    ) -> Tensor:
        num_frames = sample.shape[2]
        return residuals.mid.reshape(-1, 1, num_frames, 1, 1)


@dataclass(frozen=True)
class Windows:
    """Runs a predictor on ``size`` frames at a time, the last of them first."""

    predict: Predict
    size: int

    def __call__(self, sample: Tensor, step: int, frames: Sequence[int]) -> Tensor:
        noise = torch.zeros_like(sample)
        for start in range(len(frames) - self.size, -1, -self.size):
            place = slice(start, start + self.size)
            noise[:, :, place] = self.predict(sample[:, :, place], step, frames[place])
        return noise


def predictor(texts: int) -> UNetPredictor:
    unet: Any = Adding()
    return UNetPredictor(unet, Schedule([]), [], texts, [FrameNumbers()])


def test_a_window_gets_the_residuals_of_its_frames() -> None:
    """Windows may stand around guidance, or around each predictor that it joins."""
    sample, frames = torch.zeros(2, 1, 6, 1, 1), range(6)
    pair = OneByOne([predictor(1), predictor(1)])
    for predict in (
        Guided(predictor(2), 7.5),
        Windows(Guided(pair, 7.5), 2),
        Guided(OneByOne([Windows(predictor(1), 3), Windows(predictor(1), 2)]), 7.5),
    ):
        noise = predict(sample, 1, frames)
        assert noise.shape == sample.shape
        assert noise[:, 0, :, 0, 0].tolist() == [list(frames)] * 2
