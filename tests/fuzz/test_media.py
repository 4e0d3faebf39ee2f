"""Damaged videos and animations: their settings and their frames are read, or refused.

A reader ends in time, and follows no file that only looks like a video.
"""

import time
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from animatediff.errors import AnimateDiffError, AssetError, EncodeError
from animatediff.video import OUTPUT_FORMATS, Video, read_metadata, write_video
from animatediff.video.reading import count_frames, read_frames
from tests.fuzz.odd_bytes import damaged, with_checksums
from tests.fuzz.service import TALLY, share

# Pillow warns about the parts of a damaged file that it skips.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

SECONDS = 30
"""A reader's limit here: a tenth of the product's, on a busy machine."""
NUMBERS = count()
SETTINGS = {"prompt": "a red circle, é", "seed": 5}
POINTERS = (
    b"#EXTM3U\n#EXTINF:1,\nhttps://127.0.0.1:9/a.ts\n",
    b"ffconcat version 1.0\nfile /etc/passwd\n",
    b"<MPD><Period><BaseURL>https://127.0.0.1:9/</BaseURL></Period></MPD>",
)
"""Small files that send their reader elsewhere."""


@cache
def clip(format: str) -> bytes:
    frames = np.zeros((3, 32, 32, 3), np.uint8)
    frames[1:, 8:20] = 200
    with TemporaryDirectory() as folder:
        path = Path(folder, "clip")
        write_video(Video(frames, 8), path, format=format, metadata=SETTINGS)
        return path.read_bytes()


@st.composite
def media(draw: st.DrawFn) -> bytes:
    formats = st.sampled_from(list(OUTPUT_FORMATS))
    content, other = clip(draw(formats)), clip(draw(formats))
    way = draw(st.sampled_from(["damaged"] * 5 + ["whole", "joined", "pointer"]))
    if way == "damaged":
        content = draw(damaged(content, other))
        is_png = content.startswith(b"\x89PNG")
        return with_checksums(content) if is_png and draw(st.booleans()) else content
    return {
        "whole": content,
        "joined": content + other,
        "pointer": draw(st.sampled_from(POINTERS)),
    }[way]


def _failure(kind: str, path: Path) -> AnimateDiffError | None:
    """Read ``path``, and return what that raises."""
    try:
        if kind == "settings":
            assert isinstance(read_metadata(path), dict)
        else:
            frames = read_frames(path, [0, count_frames(path) - 1], 16, 16)
            assert frames.shape == (2, 16, 16, 3)
    except AnimateDiffError as error:
        return error
    return None


@share(0.03)
@given(media(), st.sampled_from(["settings", "frames"]), st.sampled_from(["mp4", "x"]))
def test_media_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, kind: str, suffix: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"media{next(NUMBERS)}.{suffix}"
    path.write_bytes(content)
    start = time.monotonic()
    failure = _failure(kind, path)
    assert time.monotonic() - start < SECONDS
    path.unlink()
    if failure is not None:
        assert isinstance(failure, EncodeError if kind == "settings" else AssetError)
        assert str(path.parent) not in failure.message
    TALLY[f"media, {kind}"][failure.code if failure else "read"] += 1


def test_whole_clips_give_their_settings(tmp_path: Path) -> None:
    for format in OUTPUT_FORMATS:
        path = tmp_path / format
        path.write_bytes(clip(format))
        assert read_metadata(path) == SETTINGS
