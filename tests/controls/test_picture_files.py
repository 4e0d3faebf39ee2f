"""A job's pictures are bounded together, and read one by one in a child process."""

import io
import re
import resource
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from animatediff.controls import reading
from animatediff.controls.reading import PictureReader, check_pictures
from animatediff.deadline import Deadline
from animatediff.errors import InvalidRequest, JobCancelled
from animatediff.job.clip import Clip, GenerationRequest
from animatediff.job.resolve import resolve
from animatediff.settings import Settings

pytestmark = pytest.mark.slow

FIELD = "controls.0.images.0"


def clip(pictures: int = 1, width: int = 64, height: int = 64) -> Clip:
    control = {
        "path": "rgb.safetensors",
        "images": ["cat.png"] * pictures,
        "frame_indices": range(pictures),
    }
    request = GenerationRequest(
        prompt="", width=width, height=height, num_frames=16, controls=[control]
    )
    return resolve(
        request, model="shapeworld", installed_motion=(), max_megapixel_steps=1e6
    )


def settings(**limits: Any) -> Settings:
    return Settings(**limits)


def png(width: int, height: int, colour: str = "red", mode: str = "RGB") -> bytes:
    content = io.BytesIO()
    Image.new(mode, (width, height), colour).save(content, "PNG")
    return content.getvalue()


def test_pictures_have_the_clips_size_and_their_notes_name_the_field() -> None:
    holed = io.BytesIO()
    Image.new("RGBA", (90, 60), (255, 0, 0, 0)).save(holed, "PNG")
    with PictureReader(clip(width=96, height=64), Settings()) as reader:
        first = reader.read(png(300, 200), FIELD)
        second = reader.read(holed.getvalue(), "controls.0.images.1")
    assert first.size == second.size == (96, 64)
    assert (np.asarray(first) == (255, 0, 0)).all()
    assert (np.asarray(second) == 255).all()
    assert reader.notes == ["controls.0.images.1: its transparent parts become white"]


def test_the_pixels_of_a_job_are_bounded_together() -> None:
    allowed = settings(max_picture_megapixels=0.05)
    with PictureReader(clip(), allowed) as reader:
        for _ in range(5):
            reader.read(png(100, 100), FIELD)
        with pytest.raises(InvalidRequest) as caught:
            reader.read(png(100, 100), "controls.1.images.2")
    assert caught.value.details == {
        "field": "controls.1.images.2",
        "got": "0.1 megapixels with the pictures before it",
        "allowed": "at most 0.05 in one job",
    }


def test_the_bytes_of_a_job_are_bounded_together() -> None:
    content = png(100, 100)
    with PictureReader(clip(), settings(max_picture_bytes=2 * len(content))) as reader:
        reader.read(content, FIELD)
        reader.read(content, FIELD)
        with pytest.raises(InvalidRequest, match=f"{FIELD}.*bytes in one job"):
            reader.read(content, FIELD)


def test_the_number_of_pictures_is_bounded() -> None:
    check_pictures(clip(4), settings(max_pictures=4))
    with pytest.raises(InvalidRequest, match="controls: got 5 pictures.*at most 4 in"):
        check_pictures(clip(5), settings(max_pictures=4))


def test_the_memory_of_all_pictures_at_the_clips_size_is_bounded() -> None:
    allowed = settings(picture_memory_bytes=200_000_000)
    check_pictures(clip(15, 1024, 1024), allowed)
    with pytest.raises(InvalidRequest, match="16 pictures at 1024x1024.*200000000"):
        check_pictures(clip(16, 1024, 1024), allowed)


def test_large_pictures_take_no_memory_of_the_worker() -> None:
    content = png(5000, 5000, "gray", "L")
    with PictureReader(clip(), Settings()) as reader:
        reader.read(content, FIELD)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        reader.read(content, FIELD)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 10_000  # KiB; the pixels are 75 MB


@pytest.mark.parametrize(
    ("function", "limits", "reason"),
    [
        ("compute", {"picture_seconds": 1}, "took longer than (1 s of computing|2 s)"),
        ("crash", {}, "crashed"),
    ],
)
def test_a_picture_that_exceeds_the_childs_limits_is_named(
    function: str, limits: dict, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_DECODE", f"tests.sandbox.functions:{function}")
    with (
        PictureReader(clip(), settings(**limits)) as reader,
        pytest.raises(InvalidRequest) as caught,
    ):
        reader.read(b"cat", FIELD)
    assert caught.value.details["field"] == FIELD
    shown = caught.value.details["got"]
    assert re.fullmatch(f"3 bytes whose reading {reason}", shown)


def test_a_picture_that_needs_too_much_memory_is_named() -> None:
    content = png(7000, 7000, "#01020304", "RGBA")
    with (
        PictureReader(clip(), settings(picture_memory_bytes=300_000_000)) as reader,
        pytest.raises(InvalidRequest, match="needed more than 300 MB"),
    ):
        reader.read(content, FIELD)


def test_a_cancelled_job_reads_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_DECODE", "tests.sandbox.functions:sleep")
    deadline = Deadline()
    start = time.monotonic()

    def check() -> None:
        if time.monotonic() > start + 0.3:
            deadline.cancel()
        deadline.check()

    with PictureReader(clip(), Settings()) as reader, pytest.raises(JobCancelled):
        reader.read(b"cat", FIELD, check)
    assert time.monotonic() - start < 3
