"""The synthetic world: its clips are what their scenes and shots say, and the same for
the same numbers.
"""

import hashlib
from collections import Counter

import numpy as np
import pytest

from animatediff.errors import ConfigurationError
from lab.shapeworld import world
from lab.shapeworld.captions import describe
from lab.shapeworld.scene import (
    BACKGROUNDS,
    CAMERAS,
    COLOURS,
    MOTIONS,
    Scene,
    Shot,
    Thing,
)
from lab.shapeworld.world import clip, draw_scene, held_out_scenes

pytestmark = pytest.mark.slow


def test_a_clip_is_a_function_of_its_numbers() -> None:
    one, same, other = clip(3, "train", 5), clip(3, "train", 5), clip(3, "train", 6)
    assert one.frames.dtype == np.uint8
    assert one.frames.shape == (16, 64, 64, 3)
    assert one.mask.shape == (16, 8, 8)
    assert one.scene == same.scene
    assert np.array_equal(one.frames, same.frames)
    assert not np.array_equal(one.frames, other.frames)
    assert not np.array_equal(one.frames, clip(3, "validation", 5).frames)
    assert not np.array_equal(one.frames, clip(4, "train", 5).frames)


def test_clips_are_the_same_on_every_machine() -> None:
    """Written down once: a change of the world makes earlier figures, seeds and caches
    worthless.
    """
    shots = (
        Shot(),
        Shot(style="outline"),
        Shot(style="sepia"),
        Shot(watermark=True),
        Shot(camera="zoom_in"),
    )
    digest = hashlib.sha256()
    for index in range(12):
        made = clip(0, "train", index, shots, two_objects=0.5)
        digest.update(
            made.frames.tobytes() + made.mask.tobytes() + made.scene.prompt.encode()
        )
    assert digest.hexdigest()[:16] == "b3728063dd90b99c"


def test_held_out_combinations_are_in_no_training_clip() -> None:
    held_out = {scene.combination for scene in held_out_scenes()}
    assert len(held_out) == world.NUM_HELD_OUT
    for split in ("train", "validation"):
        drawn = {draw_scene(0, split, index)[0].combination for index in range(4000)}
        assert not drawn & held_out
        assert len(drawn) == 378 - len(held_out)
    assert {
        draw_scene(0, "held_out", index)[0].combination for index in range(600)
    } == held_out


def test_held_out_scenes_are_balanced() -> None:
    scenes = held_out_scenes(84)
    assert scenes[:42] == scenes[42:]
    assert {scene.motion for scene in scenes[:7]} == set(MOTIONS)
    for name, each in (("colour", 7), ("shape", 14), ("background", 14), ("motion", 6)):
        assert set(Counter(getattr(scene, name) for scene in scenes[:42]).values()) == {
            each
        }


def test_prompt_is_canonical() -> None:
    assert (
        Scene("red", "circle", "black", "up").prompt
        == "a red circle on a black background, moving up"
    )
    scene = Scene("blue", "square", "gray", "still", "large", Thing("orange", "circle"))
    assert (
        scene.prompt
        == "a large blue square next to an orange circle on a gray background,"
        " standing still"
    )


def test_captions_vary_and_leave_things_out() -> None:
    rng = np.random.default_rng(0)
    scene = Scene("orange", "circle", "gray", "growing", other=Thing("red", "square"))
    captions = [describe(scene, rng) for _ in range(2000)]
    assert len({caption.text for caption in captions}) > 100
    assert all(
        "orange circle" in caption.text and "red square" in caption.text
        for caption in captions
    )
    assert all(
        ("background" in c.text or "on gr" in c.text) == c.background for c in captions
    )
    for name in ("background", "motion"):
        assert 0.87 < np.mean([getattr(caption, name) for caption in captions]) < 0.93
    assert any("getting bigger" in caption.text for caption in captions)
    assert any(caption.text.startswith("on ") for caption in captions)
    assert scene.prompt in {caption.text for caption in captions}
    assert not any(
        "  " in caption.text or caption.text != caption.text.strip(" ,")
        for caption in captions
    )


def test_attributes_are_what_the_caption_says() -> None:
    rng = np.random.default_rng(1)
    scene = Scene("blue", "square", "white", "left", "small")
    for _ in range(50):
        caption = describe(scene, rng)
        reports = world.attributes(scene, caption)
        values = {
            name: world.ATTRIBUTES[name][place] for name, place in reports.items()
        }
        assert (values["colour"], values["shape"], values["other_colour"]) == (
            "blue",
            "square",
            None,
        )
        assert values["motion"] == ("left" if caption.motion else None)
        assert values["size"] == ("small" if caption.size else None)


def test_training_scenes_hold_some_of_everything() -> None:
    scenes = [draw_scene(1, "train", index)[0] for index in range(2000)]
    assert 0.1 < np.mean([scene.other is not None for scene in scenes]) < 0.16
    assert 0.15 < np.mean([scene.size is not None for scene in scenes]) < 0.3
    assert all(
        scene.size is None
        for scene in scenes
        if scene.motion in ("growing", "shrinking")
    )
    assert all(
        scene.other is None or scene.other.colour != scene.colour for scene in scenes
    )


@pytest.mark.parametrize(
    "shot", [Shot(), *(Shot(camera=move) for move in CAMERAS)], ids=str
)
def test_objects_never_touch(shot: Shot) -> None:
    for index in range(40):
        other_and_subject = clip(2, "train", index, (shot,), two_objects=1.0).bodies
        strengths = [world._strength(body, "plain") for body in other_and_subject]
        if len(strengths) == 2:
            assert np.minimum(*strengths).max() < 0.01


@pytest.mark.parametrize(
    ("move", "x", "y"),
    [("pan_left", 1, 0), ("pan_right", -1, 0), ("pan_up", 0, 1), ("pan_down", 0, -1)],
)
def test_pictures_contents_go_against_the_camera(move: str, x: int, y: int) -> None:
    body = clip(0, "train", 0, (Shot(camera=move),)).bodies[-1]
    way = body.x[-1] - body.x[0], body.y[-1] - body.y[0]
    assert np.dot(way, (x, y)) >= 22
    assert abs(np.dot(way, (y, x))) < 1e-6


def test_rolling_camera_turns_the_picture_the_other_way() -> None:
    for move, sign in (("roll_clockwise", -1), ("roll_anticlockwise", 1)):
        for body in clip(0, "train", 0, (Shot(camera=move),)).bodies:
            angles = np.unwrap(
                np.arctan2(body.y - 32, body.x - 32)
            )  # y is down: growing angles are clockwise
            assert np.deg2rad(80) <= sign * (angles[-1] - angles[0]) <= np.deg2rad(100)
            assert body.angle is not None
            assert np.allclose(angles - angles[0], body.angle - body.angle[0])


def test_zooming_camera_enlarges_about_the_middle() -> None:
    body = clip(0, "train", 0, (Shot(camera="zoom_in"),)).bodies[-1]
    assert 1.6 <= body.radius[-1] / body.radius[0] <= 2.0
    assert (body.x[-1] - 32) / (body.x[0] - 32) == pytest.approx(
        body.radius[-1] / body.radius[0]
    )


def test_camera_needs_a_scene_that_stands_still() -> None:
    with pytest.raises(ValueError, match="stands still"):
        world.render(
            Scene("red", "circle", "black", "up"),
            np.random.default_rng(0),
            Shot(camera="pan_up"),
        )


def test_scribbles_are_lines_along_the_edges() -> None:
    made = clip(0, "train", 2, two_objects=1.0)
    lines = world.scribbles(made.bodies)
    assert lines.shape == (16, 64, 64)
    assert 0.9 < lines.max() <= 1
    assert 0.01 < lines.mean() < 0.15
    for body in made.bodies:  # nothing in the middle
        assert lines[0, int(body.y[0]), int(body.x[0])] == 0


def test_mask_covers_what_is_drawn_and_little_else() -> None:
    made = clip(0, "train", 0)
    background = np.array(BACKGROUNDS[made.scene.background]) * 255
    differs = (
        (abs(made.frames - background) > 30)
        .any(axis=3)
        .reshape(16, 8, 8, 8, 8)
        .any(axis=(2, 4))
    )
    assert made.mask[differs].all()
    assert made.mask.mean() < 0.7


def test_watermark_is_the_same_strip_in_every_frame() -> None:
    plain, marked = (
        clip(1, "train", 3, (Shot(watermark=on),)).frames.astype(float)
        for on in (False, True)
    )
    assert abs(marked[:, 56:] - np.array(COLOURS["orange"]) * 255).max() < 10
    assert abs(marked - plain)[:, :56].mean() < 10
    assert abs(marked - plain)[:, 56:].mean() > 60


def test_names_that_are_none() -> None:
    for shot in (
        {"camera": "zoom_in", "amount": 0.0},
        {"camera": "zoom_in", "amount": 1.5},
        {"amount": 0.5},
    ):
        with pytest.raises(ConfigurationError, match="amount: got"):
            Shot(**shot)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigurationError, match="camera: got 'dolly'"):
        Shot(camera="dolly")
    with pytest.raises(ConfigurationError, match="style: got 'oil'"):
        Shot(style="oil")
