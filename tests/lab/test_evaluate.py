"""What the evaluation says of clips whose truth is known, drawn and not generated."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from animatediff.engine import Engine
from animatediff.settings import Settings
from lab import evaluate
from lab.evaluate import SUITES, Case, Suite, figure, table
from lab.shapeworld import world
from lab.shapeworld.scene import COLOURS, DIRECTIONS, PLAIN, Scene, Shot


def drawn(scene: Scene, shot: Shot = PLAIN) -> np.ndarray:
    return (
        (world.render(scene, np.random.default_rng(3), shot) * 255)
        .round()
        .astype(np.uint8)
    )


def test_scene_that_is_shown_is_right_in_everything() -> None:
    for scene in world.held_out_scenes(7):
        measures = dict(evaluate.scene_measures(scene, [drawn(scene)]))
        speed = measures.pop("pixels a frame", None)
        assert set(measures.values()) == {1.0}
        assert (
            speed is None
            if scene.motion not in DIRECTIONS
            else 1.4 < (speed or 0) < 2.1
        )


def test_each_wrong_part_is_told() -> None:
    scene = world.held_out_scenes(1)[0]
    other = next(colour for colour in COLOURS if colour != scene.colour)
    measures = evaluate.scene_measures(
        Scene(other, scene.shape, scene.background, scene.motion), [drawn(scene)]
    )
    assert measures == {
        "colour": 0.0,
        "shape": 1.0,
        "background": 1.0,
        "motion": 1.0,
        "all four": 0.0,
        "kept in all frames": 1.0,
        "pixels a frame": pytest.approx(1.7, abs=0.35),
    }


def test_nothing_to_see_is_wrong() -> None:
    empty = np.full((16, 64, 64, 3), 128, np.uint8)
    assert set(
        evaluate.scene_measures(world.held_out_scenes(1)[0], [empty]).values()
    ) == {0.0}
    assert set(evaluate.camera_measures("zoom_in", [empty] * 3).values()) == {0.0}


def test_camera_must_go_its_way_and_more_with_strength() -> None:
    scene = next(scene for scene in world.held_out_scenes() if scene.motion == "still")
    still, moved = drawn(scene), drawn(scene, Shot(camera="pan_left"))
    half = np.concatenate([moved[::2], moved[-1:].repeat(8, axis=0)])[:16]
    assert (
        evaluate.camera_measures("pan_left", [still, half, moved])["moved its way"]
        == 1.0
    )
    assert (
        evaluate.camera_measures("pan_left", [moved, half, still])["more with strength"]
        == 0.0
    )
    assert (
        evaluate.camera_measures("pan_right", [still, half, moved])["moved its way"]
        == 0.0
    )


def test_first_frame_is_compared_in_db() -> None:
    scene = world.held_out_scenes(1)[0]
    clip = drawn(scene)
    near = (clip[0].astype(int) + 10).clip(0, 255).astype(np.uint8)
    measures = evaluate.control_measures(scene, near, [clip])
    assert 28 < measures["first frame, dB"] < 31
    assert measures["motion"] == 1.0


def test_intervals() -> None:
    share = figure("s", "m", [1.0] * 9 + [0.0], 0.85)
    assert (round(share.value, 3), round(share.low, 3), round(share.high, 3)) == (
        0.9,
        0.596,
        0.982,
    )
    assert share.met
    level = figure("s", "m", [20.0, 22.0], 22)
    assert (level.value, level.met) == (21.0, False)
    assert level.low < 20 < 22 < level.high
    assert "MISSED" in table([level])


def test_distilled_model_is_held_against_its_teacher() -> None:
    teacher = [
        figure("scenes", "colour", [1.0] * 9 + [0.0], 0.97),
        figure("scenes", "all four", [1.0], None),
    ]
    assert SUITES["lcm_4"].targets_after(teacher) == pytest.approx({"colour": 0.85})
    assert SUITES["lcm_4"].targets_after([]) == {}
    assert SUITES["scenes_v2"].targets_after(teacher) == SUITES["scenes"].targets


def test_every_suite_s_files_are_told_apart_and_its_jobs_are_legal() -> None:
    engine = Engine(Settings())
    for suite in SUITES.values():
        case: Case = next(iter(suite.cases(1)))
        for request in case.requests:
            engine.resolve(request)
    assert (
        len({suite.files for suite in SUITES.values()}) == len(SUITES) - 1
    )  # two speeds of one distilled module


@pytest.mark.slow
def test_several_processes_find_what_one_does() -> None:
    engine = Engine(Settings())
    alone, [first, _] = evaluate.evaluate(engine, "scenes", 1, every=21, most_steps=5)
    together, [same, _] = evaluate.evaluate(
        engine, "scenes", 1, every=21, processes=2, most_steps=5
    )
    assert together == alone
    assert np.abs(first.astype(int) - same).max() <= 2


def test_fewer_steps_are_asked_for_where_that_is_fewer() -> None:
    for name, most, steps in (
        ("scenes", 12, 12),
        ("scenes", 50, 25),
        ("lcm_4", 12, 4),
        ("camera_zoom_in", 12, 12),
    ):
        case = evaluate.in_fewer_steps(next(iter(SUITES[name].cases(1))), most)
        assert {request.num_inference_steps for request in case.requests} == {steps}


@pytest.mark.slow
def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def two_cases(clips: int) -> Iterator[Case]:
        cases = evaluate.scenes(clips, num_inference_steps=2, num_frames=2)
        return itertools.islice(cases, 2)

    suite = Suite(("motion_module_v3.safetensors",), two_cases, {"colour": 1.01})
    monkeypatch.setattr(
        evaluate,
        "SUITES",
        {"scenes": suite, "elsewhere": Suite(("no.safetensors",), two_cases, {})},
    )
    figures = tmp_path / "figures.json"
    assert (
        evaluate.main(
            [
                "--processes",
                "1",
                "--json",
                str(figures),
                "--sheets",
                str(tmp_path / "sheets"),
                "--require",
            ]
        )
        == 1
    )
    message = capsys.readouterr().out
    assert "not installed: elsewhere" in message
    assert {
        row["count"]
        for row in json.loads(figures.read_text())
        if row["measure"] in evaluate.STATED
    } == {2}
    assert (tmp_path / "sheets" / "scenes.png").is_file()
    assert (
        evaluate.main(["--processes", "1", "--every", "2", "--json", str(figures)]) == 0
    )
    assert {
        row["count"]
        for row in json.loads(figures.read_text())
        if row["measure"] in evaluate.STATED
    } == {1}
    too_few = (
        [option, "0"]
        for option in ("--every", "--clips", "--processes", "--most-steps")
    )
    for wrong in (["nothing"], ["elsewhere"], *too_few):
        with pytest.raises(SystemExit):
            evaluate.main(wrong)
