"""A preview fits its bytes, whatever the clip."""

import base64
import io

import numpy as np
import pytest
from PIL import Image, ImageSequence

from animatediff.video.preview import preview_url

START = "data:image/webp;base64,"


def opened(url: str) -> Image.Image:
    assert url.startswith(START)
    return Image.open(io.BytesIO(base64.b64decode(url.removeprefix(START))))


def durations(picture: Image.Image) -> list[int]:
    result: list[int] = []
    for frame in ImageSequence.Iterator(picture):
        frame.load()
        result.append(frame.info["duration"])
    return result


def waves(count: int, height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    frames = [np.sin((x + 3 * i) / 5) + np.cos(y / 7) for i in range(count)]
    gray = (np.stack(frames) + 2) * 63
    return np.repeat(gray[..., None], 3, axis=3).astype(np.uint8)


def noise(count: int, height: int, width: int) -> np.ndarray:
    source = np.random.default_rng(0)
    return source.integers(0, 256, (count, height, width, 3), np.uint8)


@pytest.mark.parametrize("max_bytes", [2000, 5000, 30_000, 100_000])
@pytest.mark.parametrize("make", [waves, noise])
@pytest.mark.parametrize("shape", [(16, 64, 64), (64, 96, 64), (1, 8, 8), (3, 32, 256)])
def test_it_is_never_longer_than_asked(
    max_bytes: int, make: type, shape: tuple[int, int, int]
) -> None:
    url = preview_url(make(*shape), 8, max_bytes)
    assert url is not None
    assert len(url) <= max_bytes
    picture = opened(url)
    assert picture.format == "WEBP"
    if shape[0] > 1:  # a clip keeps its duration, whatever is left out
        assert sum(durations(picture)) == pytest.approx(125 * shape[0], abs=1)


def test_all_frames_are_shown_while_there_is_room() -> None:
    frames = waves(16, 64, 64)
    picture = opened(preview_url(frames, 8, 60_000) or "")
    assert getattr(picture, "n_frames", 1) == 16
    assert picture.info["loop"] == 0
    assert picture.size == (256, 256)
    small = opened(preview_url(frames, 8, 5000) or "")
    assert small.size < picture.size
    assert getattr(small, "n_frames", 1) == 16


def test_frames_are_left_out_last() -> None:
    tight = opened(preview_url(noise(64, 64, 64), 8, 4000) or "")
    assert 1 <= getattr(tight, "n_frames", 1) < 64


def test_the_shape_is_kept() -> None:
    assert opened(preview_url(waves(2, 32, 64), 8, 50_000) or "").size == (256, 128)


def test_a_small_picture_is_enlarged_but_not_endlessly() -> None:
    assert opened(preview_url(waves(2, 8, 8), 8, 50_000) or "").size == (64, 64)


def test_there_is_none_where_nothing_fits() -> None:
    assert preview_url(noise(4, 64, 64), 8, 60) is None
