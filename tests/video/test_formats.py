"""The table of output formats: what a row needs, and which row a suffix means."""

import inspect
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from animatediff.errors import EncodeError
from animatediff.video import (
    OUTPUT_FORMATS,
    OutputFormat,
    Video,
    animations,
    read_metadata,
    write_video,
)
from animatediff.video.clip import Encoding
from animatediff.video.formats import (
    Signature,
    _function,
    format_of_content,
    format_of_suffix,
)
from animatediff.video.grid import save_videos_grid

FRAMES = np.full((2, 16, 16, 3), 80, np.uint8)


@pytest.mark.parametrize("row", OUTPUT_FORMATS.values(), ids=lambda row: row.suffix)
def test_every_row_names_its_functions(row: OutputFormat) -> None:
    assert len(inspect.signature(_function(row.writer)).parameters) == 3
    assert len(inspect.signature(_function(row.reader)).parameters) == 1


@pytest.mark.parametrize("format", OUTPUT_FORMATS)
def test_suffix_and_content_mean_the_first_such_format(
    format: str, tmp_path: Path
) -> None:
    suffix, rows = OUTPUT_FORMATS[format].suffix, OUTPUT_FORMATS.items()
    first = next(name for name, row in rows if row.suffix == suffix)
    assert format_of_suffix(suffix) == format_of_suffix(suffix.upper()) == first
    path = tmp_path / "clip"
    write_video(Video(FRAMES, 8), path, format=format, metadata={})
    signature = OUTPUT_FORMATS[format].signature
    first = next(name for name, row in rows if row.signature == signature)
    assert format_of_content(path) == first


def test_new_format_needs_a_row_and_two_functions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(video: Video, path: Path, how: Encoding) -> None:
        path.write_bytes(
            b"RAW1" + how.comment.encode() + b"\n" + video.frames.tobytes()
        )

    def read(path: Path) -> str:
        return path.read_bytes().splitlines()[0].decode().removeprefix("RAW1")

    monkeypatch.setattr(animations, "write_raw", write, raising=False)
    monkeypatch.setattr(animations, "read_raw_comment", read, raising=False)
    row = OutputFormat(
        mime="video/raw",
        suffix=".raw",
        bytes_per_pixel=3.0,
        signature=Signature(b"RAW1"),
        writer="animations:write_raw",
        reader="animations:read_raw_comment",
    )
    monkeypatch.setitem(OUTPUT_FORMATS, "raw", row)
    path = tmp_path / "clip.raw"
    clip = Video(FRAMES, 8)
    encoded = write_video(clip, path, format="raw", metadata={"seed": 7})
    assert (encoded.format, encoded.mime) == ("raw", "video/raw")
    assert read_metadata(path) == {"seed": 7}
    save_videos_grid(torch.zeros(1, 3, 2, 4, 4), tmp_path / "grid.raw")
    assert (tmp_path / "grid.raw").read_bytes().endswith(bytes(2 * 3 * 4 * 4))


def test_second_format_with_a_suffix_does_not_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = torch.linspace(0, 1, 3 * 2 * 16 * 16).reshape(1, 3, 2, 16, 16)
    save_videos_grid(videos, tmp_path / "before.mp4")
    lookalike = replace(OUTPUT_FORMATS["webm"], suffix=".mp4")
    monkeypatch.setitem(OUTPUT_FORMATS, "mp4_vp9", lookalike)
    save_videos_grid(videos, tmp_path / "after.mp4")
    before = (tmp_path / "before.mp4").read_bytes()
    assert (tmp_path / "after.mp4").read_bytes() == before


def test_unknown_suffix_lists_each_suffix_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OUTPUT_FORMATS, "second", OUTPUT_FORMATS["mp4"])
    with pytest.raises(EncodeError, match=r"'\.avi', allowed: \.mp4, \.gif") as caught:
        format_of_suffix(".avi")
    assert caught.value.message.count(".mp4") == 1


def test_table_loads_no_encoder() -> None:
    heavy = "{'numpy', 'PIL', 'imageio_ffmpeg', 'torch'}"
    code = f"import sys, animatediff.video; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
