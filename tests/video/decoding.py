"""Decode clips for the tests, independently of the code that wrote them."""

import re
import subprocess
import zipfile
from itertools import accumulate
from pathlib import Path

import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image, ImageSequence

from animatediff.video import OUTPUT_FORMATS

VIDEO_SUFFIXES = {
    row.suffix for row in OUTPUT_FORMATS.values() if row.mime.startswith("video/")
}


def ffmpeg(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [get_ffmpeg_exe(), "-hide_banner", *arguments], capture_output=True, check=False
    )


def decode_frames(path: Path) -> np.ndarray:
    """Return uint8 (f, h, w, 3).

    ffmpeg takes the colour matrix from the file's tags.
    """
    if path.suffix in VIDEO_SUFFIXES:
        size = re.search(
            r"Video: .* (\d+)x(\d+)", ffmpeg("-i", str(path)).stderr.decode()
        )
        assert size
        raw = ffmpeg("-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-").stdout
        return np.frombuffer(raw, np.uint8).reshape(-1, int(size[2]), int(size[1]), 3)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if name.endswith(".png"))
            return np.stack(
                [np.asarray(Image.open(archive.open(name))) for name in names]
            )
    with Image.open(path) as image:
        return np.stack(
            [
                np.asarray(frame.convert("RGB"))
                for frame in ImageSequence.Iterator(image)
            ]
        )


def frame_times(path: Path) -> list[float]:
    """Return when each frame starts and, last, when the clip ends, in seconds."""
    if path.suffix in VIDEO_SUFFIXES:
        packets = ffmpeg(
            "-i", str(path), "-c", "copy", "-f", "framecrc", "-"
        ).stdout.decode()
        base = re.search(r"#tb 0: (\d+)/(\d+)", packets)
        assert base
        rows = [
            line.split(",")
            for line in packets.splitlines()
            if line and not line.startswith("#")
        ]
        ticks = sorted((int(row[2]), int(row[3])) for row in rows)  # pts, duration
        scale = int(base[1]) / int(base[2])
        return [pts * scale for pts, _ in ticks] + [sum(ticks[-1]) * scale]
    with Image.open(path) as image:
        delays = [
            frame.convert("RGB") and frame.info["duration"] / 1000
            for frame in ImageSequence.Iterator(image)
        ]
    return list(accumulate(delays, initial=0.0))
