"""The judge is right about clips whose truth is known, clear or blurred, and says so when there is nothing."""

from dataclasses import asdict

import numpy as np
import pytest
from judge import judge
from world import MOTIONS, random_scene, render


def blurred(clip: np.ndarray) -> np.ndarray:
    """As soft and noisy as a small VAE's pictures."""
    for axis in (1, 2):
        clip = (np.roll(clip, 1, axis) + 2 * clip + np.roll(clip, -1, axis)) / 4
    return np.clip(clip + np.random.default_rng(0).normal(0, 0.03, clip.shape), 0, 1)


@pytest.mark.parametrize(("soften", "least"), [(lambda clip: clip, 0.98), (blurred, 0.95)], ids=["clear", "blurred"])
def test_judge_reads_what_was_drawn(soften, least: float) -> None:
    rng = np.random.default_rng(1)
    right = dict.fromkeys(("colour", "shape", "background", "motion"), 0)
    scenes = [random_scene(rng, motion) for motion in MOTIONS for _ in range(15)]
    for scene in scenes:
        seen = judge(soften(render(scene, rng)))
        for name in right:
            right[name] += seen is not None and asdict(seen)[name] == asdict(scene)[name]
    accuracy = {name: count / len(scenes) for name, count in right.items()}
    print(f"judge, {len(scenes)} clips: {accuracy}")
    assert min(accuracy.values()) >= least, accuracy


def test_time_reversed_clip_is_read_as_the_opposite_motion() -> None:
    rng = np.random.default_rng(2)
    opposite = {"left": "right", "right": "left", "up": "down", "down": "up", "growing": "shrinking", "still": "still"}
    for motion, other in opposite.items():
        seen = judge(render(random_scene(rng, motion), rng)[::-1])
        assert seen is not None
        assert seen.motion == other


def test_noise_and_emptiness_are_nothing() -> None:
    assert judge(np.full((16, 64, 64, 3), 128, np.uint8)) is None
