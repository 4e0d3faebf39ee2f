"""The judge is right about clips whose truth is known, clear or blurred, and says so
when there is nothing.
"""

from dataclasses import asdict

import numpy as np
import pytest

from lab.shapeworld.judge import judge, read
from lab.shapeworld.scene import CAMERAS, MOTIONS, STYLES, Scene, Shot, Thing
from lab.shapeworld.world import clip, random_scene, render

pytestmark = pytest.mark.slow


def clear(clip: np.ndarray) -> np.ndarray:
    return clip


def blurred(clip: np.ndarray) -> np.ndarray:
    """As soft and noisy as a small VAE's pictures."""
    for axis in (1, 2):
        clip = (np.roll(clip, 1, axis) + 2 * clip + np.roll(clip, -1, axis)) / 4
    return np.clip(clip + np.random.default_rng(0).normal(0, 0.03, clip.shape), 0, 1)


@pytest.mark.parametrize(("soften", "least"), [(clear, 0.98), (blurred, 0.95)])
def test_judge_reads_what_was_drawn(soften, least: float) -> None:
    rng = np.random.default_rng(1)
    right = dict.fromkeys(("colour", "shape", "background", "motion"), 0)
    scenes = [random_scene(rng, motion) for motion in MOTIONS for _ in range(8)]
    for scene in scenes:
        seen = judge(soften(render(scene, rng)))
        for name in right:
            right[name] += (
                seen is not None and asdict(seen)[name] == asdict(scene)[name]
            )
    accuracy = {name: count / len(scenes) for name, count in right.items()}
    print(f"judge, {len(scenes)} clips: {accuracy}")
    assert min(accuracy.values()) >= least, accuracy


@pytest.mark.parametrize(("soften", "least"), [(clear, 0.98), (blurred, 0.95)])
@pytest.mark.parametrize("style", STYLES)
def test_style_size_and_second_object_are_read(
    style: str, soften, least: float
) -> None:
    right = dict.fromkeys(("scene", "kept", "style", "watermark"), 0)
    count = 24
    for index in range(count):
        shown = clip(7, "train", index, (Shot(style=style),), two_objects=0.5)
        seen = read(soften(shown.frames / 255))
        assert seen is not None
        right["scene"] += seen.scene == shown.scene
        right["kept"] += seen.kept >= 0.95
        right["style"] += seen.style == style
        right["watermark"] += not seen.watermark
    assert min(right.values()) >= least * count, right


@pytest.mark.parametrize(("soften", "least"), [(clear, 1.0), (blurred, 0.95)])
def test_camera_moves_are_told_apart(soften, least: float) -> None:
    right, count = 0, 6
    for move in CAMERAS:
        for index in range(count):
            seen = read(
                soften(clip(3, "train", index, (Shot(camera=move),)).frames / 255)
            )
            right += (
                seen is not None
                and seen.camera.move == move
                and seen.camera.amount(move) > 0
            )
    print(f"camera, {count * len(CAMERAS)} clips: {right}")
    assert right >= least * count * len(CAMERAS)


def test_camera_amounts_are_what_was_filmed() -> None:
    scene = Scene("red", "square", "gray", "still", other=Thing("blue", "circle"))
    amounts = {
        "pan_left": (22, 30),
        "zoom_out": (np.log(1.6), np.log(2.0)),
        "roll_clockwise": (80, 100),
    }
    for move, (least, most) in amounts.items():
        camera = read(render(scene, np.random.default_rng(4), Shot(camera=move))).camera  # pyright: ignore
        assert 0.97 * least <= camera.amount(move) <= 1.03 * most
        assert camera.error < 0.5
        half = read(
            render(scene, np.random.default_rng(4), Shot(camera=move, amount=0.5))
        ).camera  # pyright: ignore
        assert half.amount(move) == pytest.approx(camera.amount(move) / 2, rel=0.05)


def test_nothing_moves_where_everything_stands_still() -> None:
    seen = read(
        render(Scene("green", "circle", "white", "still"), np.random.default_rng(0))
    )
    assert seen is not None
    assert seen.camera.move == "still"
    assert seen.speed < 0.02
    assert abs(seen.growth) < 0.1


def test_speed_and_growth_in_pixels() -> None:
    rng = np.random.default_rng(0)
    moving, growing = (
        read(render(Scene("red", "circle", "black", motion), rng))
        for motion in ("left", "growing")
    )
    assert moving is not None
    assert growing is not None
    assert 22 / 15 * 0.98 <= moving.speed <= 30 / 15 * 1.02
    assert growing.growth == pytest.approx(11, abs=0.5)


def test_colour_that_changes_is_not_kept() -> None:
    rng = np.random.default_rng(0)
    red, blue = (
        render(Scene(colour, "circle", "white", "still"), rng)
        for colour in ("red", "blue")
    )
    seen = read(np.concatenate([red[:12], blue[12:]]))
    assert seen is not None
    assert seen.scene.colour == "red"
    assert seen.kept == 0.75


def test_watermark_is_seen() -> None:
    for index in range(8):
        seen = read(clip(5, "train", index, (Shot(watermark=True),)).frames)
        assert seen is not None
        assert seen.watermark


def test_time_reversed_clip_is_read_as_the_opposite_motion() -> None:
    rng = np.random.default_rng(2)
    opposite = {
        "left": "right",
        "right": "left",
        "up": "down",
        "down": "up",
        "growing": "shrinking",
        "still": "still",
    }
    for motion, other in opposite.items():
        seen = judge(render(random_scene(rng, motion), rng)[::-1])
        assert seen is not None
        assert seen.motion == other


def test_noise_and_emptiness_are_nothing() -> None:
    assert judge(np.full((16, 64, 64, 3), 128, np.uint8)) is None
    assert (
        judge(np.random.default_rng(0).normal(0.5, 0.03, (16, 64, 64, 3)).clip(0, 1))
        is None
    )


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="64x64"):
        judge(np.zeros((16, 32, 32, 3), np.uint8))
