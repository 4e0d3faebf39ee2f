"""Chosen frames of a video file are read at a given size; bad files are AssetErrors."""

from pathlib import Path

import numpy as np
import pytest

from animatediff.errors import AssetError
from animatediff.sandbox import Limits
from animatediff.video import Video, write_video
from animatediff.video.reading import count_frames, read_frames


def ramp(
    path: Path,
    format: str = "mp4",
    num_frames: int = 30,
    width: int = 48,
    height: int = 32,
) -> Path:
    """Write a clip whose frame i is grey of value 8 i, with a black left third."""
    frames = np.zeros((num_frames, height, width, 3), np.uint8)
    frames[:, :, width // 3 :] = np.arange(num_frames)[:, None, None, None] * 8
    write_video(Video(frames, 8), path, format=format, metadata={})
    return path


@pytest.mark.parametrize(
    ("format", "suffix"), [("mp4", "mp4"), ("webm", "webm"), ("gif", "gif")]
)
def test_frames_by_number(tmp_path: Path, format: str, suffix: str) -> None:
    path = ramp(tmp_path / f"ä b.{suffix}", format)
    assert count_frames(path) == count_frames(path, exact=True) == 30
    frames = read_frames(path, [29, 3, 3, 10], width=48, height=32)
    assert frames.shape == (4, 32, 48, 3)
    assert np.allclose(
        frames[:, 8:24, 24:40].mean(axis=(1, 2, 3)) / 8, [29, 3, 3, 10], atol=0.4
    )


def test_size_is_covered_and_cut_about_the_centre(tmp_path: Path) -> None:
    path = ramp(tmp_path / "wide.mp4", width=48, height=16)
    # The frame is scaled to 96 x 32, and the columns 32 to 63 are kept.
    [frame] = read_frames(path, [29], width=32, height=32)
    assert frame.shape == (32, 32, 3)
    assert frame[:, 3:].min() > 200
    assert read_frames(path, [29], width=96, height=16).shape == (1, 16, 96, 3)


def test_files_that_are_not_videos(tmp_path: Path) -> None:
    (tmp_path / "junk.mp4").write_bytes(b"no video" * 100)
    (tmp_path / "list.mp4").write_text(
        "#EXTM3U\n#EXTINF:1,\nhttps://example.org/a.ts\n"
    )
    for name in ("junk.mp4", "list.mp4", "missing.mp4"):
        with pytest.raises(AssetError, match=rf"^{name}: ") as raised:
            count_frames(tmp_path / name)
        assert str(tmp_path) not in raised.value.message
    path = ramp(tmp_path / "short.mp4", num_frames=5)
    with pytest.raises(AssetError, match="only 1 of 2 requested frames"):
        read_frames(path, [4, 5], width=16, height=16)


def test_file_that_takes_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ramp(tmp_path / "slow.mp4")
    monkeypatch.setattr("animatediff.video.reading._LIMITS", Limits(0.0001))
    with pytest.raises(AssetError, match="took longer"):
        count_frames(path)
