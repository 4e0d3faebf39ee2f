"""Windows of a long clip: where they lie, and how their frames count."""

import json
from pathlib import Path
from typing import Any

import pytest

from animatediff.job.clip import ContextWindows
from animatediff.job.windows import (
    FUSES,
    SCHEDULES,
    Layout,
    Window,
    bit_reversed_fraction,
    looped_windows,
)

PEER = json.loads((Path(__file__).parents[1] / "data/windows/windows.json").read_text())
"""What ComfyUI-AnimateDiff-Evolved computes."""


def windows_as(row: dict[str, Any]) -> list[Window]:
    layout = Layout(
        row["num_frames"], row["context_length"], row["overlap"], row["stride"]
    )
    if row["schedule"] == "looped":
        return looped_windows(layout, row["step"], is_closed=row["closed_loop"])
    return SCHEDULES[row["schedule"]].windows(layout, row["step"])


def test_windows_are_the_peers() -> None:
    assert len(PEER["windows"]) == 100
    for row in PEER["windows"]:
        assert [list(window) for window in windows_as(row)] == row["windows"], row


def test_weights_are_the_peers() -> None:
    assert {row["fuse"] for row in PEER["weights"]} == {"pyramid", "overlap_linear"}
    for row in PEER["weights"]:
        window = tuple(row.get("window", range(row["length"])))
        frames = row.get("num_frames", row["length"])
        layout = Layout(frames, row["length"], row.get("overlap", 0))
        weights = FUSES[row["fuse"]].weights(layout, window)
        assert weights == pytest.approx(row["weights"], abs=2e-6)


def test_steps_are_spread_evenly() -> None:
    fractions = [bit_reversed_fraction(step) for step in range(8)]
    assert fractions == [0, 1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8, 3 / 8, 7 / 8]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("length", [8, 16])
@pytest.mark.parametrize("overlap", [0, 1, 4, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_windows_hold_every_frame_and_none_twice(
    schedule: str, length: int, overlap: int, stride: int
) -> None:
    for num_frames in (8, 9, 16, 17, 34, 35, 100):
        clip = ContextWindows(
            length=length, overlap=overlap, stride=stride, schedule=schedule
        )
        layout = clip.layout(num_frames)
        for step in range(20):
            windows = clip.windows(layout, step)
            assert {len(window) for window in windows} == {min(length, num_frames)}
            assert all(len(set(window)) == len(window) for window in windows)
            assert set().union(*windows) == set(range(num_frames))


def test_only_looped_windows_go_from_the_end_to_the_start() -> None:
    layout = Layout(32, 16, 4, stride=2)
    for schedule, row in SCHEDULES.items():
        turned = [
            window
            for step in range(8)
            for window in row.windows(layout, step)
            if list(window) != sorted(window)
        ]
        assert bool(turned) == (schedule == "looped")


def test_a_frame_counts_once_for_each_window_that_holds_it() -> None:
    assert ContextWindows(schedule="static").frames_a_step(32) == 48
    assert ContextWindows().frames_a_step(12) == 12


@pytest.mark.parametrize("overlap", [0, 1, 2])
def test_a_ramp_is_as_long_as_the_overlap(overlap: int) -> None:
    weights = FUSES["overlap_linear"].weights(Layout(12, 4, overlap), (4, 5, 6, 7))
    assert [weight < 1 for weight in weights].count(True) == (2 if overlap else 0)
    assert min(weights) > 0
