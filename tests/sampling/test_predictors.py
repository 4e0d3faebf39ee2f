"""Wrappers of a predictor: each control follows the frames that a predictor runs on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from animatediff.job.clip import ContextWindows
from animatediff.job.windows import FUSES, SCHEDULES
from animatediff.models.context import ControlResiduals, Schedule
from animatediff.sampling.predictor import (
    Guided,
    OneByOne,
    Predict,
    UNetPredictor,
    Windowed,
)


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


class OwnFrames:
    """Predicts what a sample holds, and notes the windows that it runs on."""

    def __init__(self) -> None:
        self.windows: list[list[int]] = []

    def __call__(self, sample: Tensor, step: int, frames: Sequence[int]) -> Tensor:
        assert step == 3
        self.windows.append(list(frames))
        return sample


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("fuse", FUSES)
def test_predictions_of_windows_are_averaged(schedule: str, fuse: str) -> None:
    """Each window predicts its own frames, so the average is the clip again."""
    context = ContextWindows(length=4, overlap=2, schedule=schedule, fuse=fuse)
    clip, predict = torch.randn(2, 3, 10, 2, 2), OwnFrames()
    frames = range(100, 110)
    averaged = Windowed(predict, context)(clip, 3, frames)
    torch.testing.assert_close(averaged, clip)
    windows = context.windows(context.layout(10), 3)
    assert predict.windows == [[frames[i] for i in window] for window in windows]


def test_an_average_has_the_weights_of_its_windows() -> None:
    """Two windows of 4 frames share 2; the pyramid is 1, 2, 2, 1."""

    def number(sample: Tensor, _step: int, frames: Sequence[int]) -> Tensor:
        return torch.full_like(sample, float(frames[0]))

    context = ContextWindows(length=4, overlap=2, schedule="static", fuse="pyramid")
    averaged = Windowed(number, context)(torch.zeros(1, 1, 6, 1, 1), 0, range(6))
    expected = [0, 0, 2 * 1 / 3, 2 * 2 / 3, 2, 2]
    assert averaged.flatten().tolist() == pytest.approx(expected)


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
