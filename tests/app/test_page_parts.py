"""The page's parts without Gradio: what is installed, lists, previews, and HTML."""

import base64
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from animatediff.app.backends import Event, Failed, Finished, Update, Waiting
from animatediff.app.desk import Clip, Desk, Tile, defaults, messages
from animatediff.app.gallery import GalleryClip
from animatediff.app.installed import Installed, look, published
from animatediff.app.lists import (
    MAX_PICTURE,
    Entries,
    after,
    picture_url,
    with_file,
    with_pictures,
)
from animatediff.app.moving import Strip, strip_of, strip_of_url
from animatediff.app.studio import Studio
from animatediff.app.views import (
    cards,
    controls,
    facts,
    files,
    link,
    moving,
    note,
    player,
    stage,
    summary,
)
from animatediff.catalog import BASE_MODELS, DEFAULT_MODEL
from animatediff.errors import InvalidRequest
from animatediff.progress import Preview
from animatediff.video import Video, write_video
from animatediff.video.preview import preview_url

MODELS = Path(__file__).parents[2] / "models"
EVIL = '"><script>alert(1)</script>'
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmM"
    "IQAAAABJRU5ErkJggg=="
)


@pytest.mark.slow
def test_what_is_installed_is_offered_at_its_row() -> None:
    choices = look(MODELS).choices()
    values = {name: {value for _, value in row} for name, row in choices.items()}
    assert values["model"] == {"shapeworld"}
    assert values["motion_module"] >= {"shapeworld_v3", "shapeworld_lcm"}
    assert "shapeworld/motion_lora_zoom_in.safetensors" in values["loras"]
    assert values["controls"] == {
        "shapeworld/sparsectrl_rgb.safetensors",
        "shapeworld/sparsectrl_scribble.safetensors",
    }
    assert values["dreambooth"] == {"shapeworld/dreambooth.safetensors"}
    assert "vae" not in values  # the model's own parts are no choices


def test_a_new_file_and_a_new_model_are_seen(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    assert look(tmp_path).choices() == {"model": (), "motion_module": ()}
    save_file({"emb_params": torch.zeros(2, 768)}, tmp_path / "word.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    (tmp_path / "mine" / "unet").mkdir(parents=True)
    (tmp_path / "mine" / "unet" / "config.json").write_text("{}")
    choices = look(tmp_path).choices()
    assert [value for _, value in choices["embeddings"]] == ["word.safetensors"]
    assert [value for _, value in choices["model"]] == ["mine"]


def test_an_endpoint_offers_the_catalog() -> None:
    values = [value for _, value in published().choices()["model"]]
    assert values == list(BASE_MODELS)


def test_files_join_a_list_once() -> None:
    entries = with_file(with_file((), "a.safetensors"), "b.safetensors")
    assert with_file(entries, "a.safetensors") == entries
    assert with_file(entries, "") == entries
    assert [entry["path"] for entry in entries] == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize(
    ("count", "places"), [(1, [0]), (2, [0, 15]), (3, [0, 8, 15]), (4, [0, 5, 10, 15])]
)
def test_pictures_are_spread_over_the_clip(count: int, places: list[int]) -> None:
    (entry,) = with_pictures((), "c.safetensors", ["data:,"] * count, 16)
    assert entry["frame_indices"] == places


def test_more_pictures_go_to_free_frames() -> None:
    entries = with_pictures((), "c", ["first"], 16)
    (entry,) = with_pictures(entries, "c", ["last"], 16)
    assert (entry["images"], entry["frame_indices"]) == (["first", "last"], [0, 15])
    assert with_pictures(entries, "", ["x"], 16) == entries


LORAS: Entries = ({"path": "a"}, {"path": "b", "strength": 0.5})
CONTROLS: Entries = ({"path": "c", "images": ["x", "y"], "frame_indices": [0, 15]},)


@pytest.mark.parametrize(
    ("entries", "act", "result"),
    [
        (LORAS, {"act": "remove", "place": "0"}, LORAS[1:]),
        (
            LORAS,
            {"act": "strength", "place": "1", "value": "0.8"},
            (LORAS[0], {"path": "b", "strength": 0.8}),
        ),
        (LORAS, {"act": "strength", "place": "1", "value": "much"}, LORAS),
        (LORAS, {"act": "strength", "place": "7", "value": "1"}, LORAS),
        (LORAS, {"act": "explode", "place": "0"}, LORAS),
        (LORAS, {}, LORAS),
        (
            LORAS[:1],
            {"act": "token", "place": "0", "value": " word "},
            ({"path": "a", "token": "word"},),
        ),
        (
            CONTROLS,
            {"act": "frame", "place": "0", "picture": "1", "value": "7"},
            ({"path": "c", "images": ["x", "y"], "frame_indices": [0, 7]},),
        ),
        (
            CONTROLS,
            {"act": "remove-picture", "place": "0", "picture": "0"},
            ({"path": "c", "images": ["y"], "frame_indices": [15]},),
        ),
    ],
)
def test_acts_change_entries(entries: Entries, act: Any, result: Entries) -> None:
    assert after(entries, act) == result


def test_the_last_picture_takes_its_control_along() -> None:
    act = {"act": "remove-picture", "place": 0, "picture": 0}
    assert after(after(CONTROLS, act), act) == ()


def test_a_picture_becomes_text(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    assert picture_url(path).startswith("data:image/png;base64,iVBOR")
    path.write_bytes(b"#!/bin/sh")
    with pytest.raises(InvalidRequest, match="PNG"):
        picture_url(path)
    path.write_bytes(PNG + bytes(MAX_PICTURE))
    with pytest.raises(InvalidRequest, match="5 MB"):
        picture_url(path)


def frames(count: int = 4) -> np.ndarray:
    levels = np.linspace(0, 255, count).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, 8, 8, 3)).copy()


def test_previews_become_strips() -> None:
    strip = strip_of(Preview(torch.from_numpy(frames()), 8, 1000))
    assert (strip.count, strip.seconds) == (4, 0.5)
    assert strip.url.startswith("data:image/webp;base64,")
    other = strip_of_url(preview_url(frames(), 8, 50_000))
    assert other is not None
    assert (other.count, other.seconds) == (4, 0.5)


@pytest.mark.parametrize(
    "url",
    [
        None,
        "https://example.org/a.webp",
        "data:image/webp;base64,!",
        "data:image/webp;base64,AAAA",
        "data:image/webp;base64," + base64.b64encode(PNG).decode(),
    ],
)
def test_other_previews_are_none(url: Any) -> None:
    assert strip_of_url(url) is None


def test_a_preview_that_is_too_large_is_none() -> None:
    large = np.zeros((1, 600, 8, 3), np.uint8)
    assert strip_of_url(preview_url(large, 8, 500_000)) is not None  # made smaller
    assert strip_of_url(preview_url(frames(65), 8, 500_000)) is None


class Scripted:
    """A back end that does what it is told."""

    title, at_once = "scripted", 1

    def __init__(self, *events: Event) -> None:
        self.events, self.jobs = events, list[Any]()

    def check(self, job: Any) -> None:
        if job.get("width") == 1:
            raise InvalidRequest("width", 1, "a multiple of 8")

    def run(self, job: Any, cancelled: threading.Event) -> Generator[Event]:
        assert not cancelled.is_set()
        self.jobs.append(job)
        yield from self.events


def desk(folder: Path, *events: Event) -> Desk:
    return Desk(Studio(Scripted(*events)), folder, Installed)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.apng"
    metadata = {
        "software": "animatediff-serverless",
        "request": {"prompt": "a fox", "seed": 3, "fps": 8, "width": 64, "height": 64},
    }
    video = Video(np.zeros((2, 64, 64, 3), np.uint8), 8)
    write_video(video, path, format="apng", metadata=metadata)
    return path


def test_a_click_gives_tiles_and_clips_with_their_seeds(clip: Path) -> None:
    done = Finished(clip, {"seed": 3, "timings": {"total": 2.0, "denoise": 1.5}})
    table = desk(clip.parent, Update({"phase": "load"}), done)
    *_, last = table.make("me", {"prompt": "a fox", "seed": 3}, 2)
    assert [tile.clip.path for tile in last if tile.clip] == [clip, clip]
    assert last[0].job == {"prompt": "a fox", "seed": 3}
    assert [job["seed"] for job in table.backend.jobs] == [3, 4]  # type: ignore[attr-defined]
    assert all(job["preview"]["every"] == 1 for job in table.backend.jobs)  # type: ignore[attr-defined]
    shown = last[0].clip
    assert shown is not None
    assert shown.shown == clip.parent / "copies" / "clip.webp"  # a browser plays it
    assert "made in 2.0 s (denoise 1.5 s)" in facts(shown)
    assert "seed 3" in stage(last)


def test_a_failure_ends_the_clips_that_are_to_come(tmp_path: Path) -> None:
    failed = Failed(
        {
            "code": "INVALID_REQUEST", "message": "width: got 8", "field": "width",
            "got": 8, "allowed": "at least 64",
        }
    )  # fmt: skip
    table = desk(tmp_path, failed)
    (tiles,) = table.make("me", {}, 3)
    assert [tile.error is None for tile in tiles] == [False, True, True]
    assert messages(tiles[0].error or {}) == {"width": "got 8, allowed: at least 64"}
    assert messages({"code": "CANCELLED", "message": "cancelled"}) == {}
    assert "width: got 8" in stage(tiles)


def test_a_wrong_job_is_a_problem(tmp_path: Path) -> None:
    table = desk(tmp_path)
    assert isinstance(table.problem({"width": 1}), InvalidRequest)
    assert table.problem({}) is None


def test_only_clips_of_the_gallery_are_opened(clip: Path) -> None:
    table = desk(clip.parent)
    assert table.named("clip.apng") == clip
    for name in ("../clip.apng", "/etc/passwd", "presets.json", "", str(clip)):
        assert table.named(name) is None
    assert table.clip(clip).job["prompt"] == "a fox"


def test_empty_rows_show_what_the_model_takes() -> None:
    assert defaults("shapeworld")["width"] == 64
    assert defaults("shapeworld", "shapeworld_lcm")["num_inference_steps"] == 8
    assert defaults("a/folder") == defaults(DEFAULT_MODEL)


def test_all_text_is_escaped() -> None:
    tile = Tile({"prompt": EVIL}, Waiting(note=EVIL))
    made = Clip(Path(EVIL), Path("x.gif"), {"prompt": EVIL}, {"warnings": [EVIL]})
    entries = ({"path": EVIL, "token": EVIL, "images": [EVIL], "strength": EVIL},)
    html = [
        stage([tile, Tile({"prompt": EVIL, "seed": EVIL}, None, None, made)]),
        facts(made),
        summary(EVIL, {}),
        summary("", {EVIL: EVIL}),
        note(EVIL),
        cards([GalleryClip(Path(EVIL), {"prompt": EVIL})], 5),
        files("loras", entries, EVIL),
        files("embeddings", entries),
        controls(entries, 4, EVIL),
        player(Path(f"{EVIL}.mp4"), EVIL, "controls"),
    ]
    assert [text for text in html if "<script" in text or '">alert' in text] == []
    assert "a fox" in facts(Clip(Path("a"), Path("a"), {"prompt": "a fox"}))


def test_sizes_from_outside_are_numbers() -> None:
    tile = Tile({"width": '1;background:url("x")', "height": 2})
    assert "background" not in stage([tile])


def test_progress_is_told_in_words() -> None:
    fields = {"phase": "denoise", "step": 5, "total": 20, "seconds_left": 3.2}
    text = stage([Tile({}, Update(fields))])
    assert "drawing, step 5 of 20, 3 s left" in text
    assert 'aria-valuenow="25"' in text
    assert "place 2 in the queue" in stage([Tile({}, Waiting(2))])


def test_a_preview_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 101.25)
    text = moving(Strip("data:image/webp;base64,AA", 16, 2.0))
    assert "animation-delay:-1.250s" in text
    assert "steps(16,jump-none)" in text


def test_pictures_stand_on_the_strip_of_frames() -> None:
    url = "data:image/png;base64,AA"
    entry = {"path": "c", "images": [url, url], "frame_indices": [0, -1]}
    text = controls((entry,), 4)
    assert text.count('class="taken"') == 2
    assert text.count('class="free"') == 2
    assert text.rindex('class="free"') < text.rindex('class="taken"')  # -1 is the last


def test_the_gallery_says_how_many_more() -> None:
    many = [GalleryClip(Path(f"{i}.gif"), {}) for i in range(5)]
    assert "and 3 more" in cards(many, 2)
    assert "No clip" in cards([], 2)
    assert link(Path("/a b/c#d.mp4")) == "gradio_api/file=/a%20b/c%23d.mp4"
