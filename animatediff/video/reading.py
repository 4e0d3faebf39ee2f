"""The way in: single frames of a video file, by ffmpeg. Of the file no more is held
than the frames that are wanted.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import AssetError, EncodeError
from .ffmpeg import run_ffmpeg

_SECONDS = 300  # for one file; one that takes longer counts as broken
_FIT = "scale={w}:{h}:force_original_aspect_ratio=increase:flags=bicubic+accurate_rnd+full_chroma_int,crop={w}:{h}"


def count_frames(path: Path, exact: bool = False) -> int:
    """How many frames the first video stream has, as its packets say or, ``exact``, by
    decoding them all.

    Packets are counted some hundred times faster; a file that was cut, or says to leave
    out some, has fewer frames. Raises AssetError, without folders of this host in its
    message.
    """
    copy = [] if exact else ["-c", "copy"]
    told = _run(
        path, ["-map", "0:v:0", *copy, "-f", "null", "-progress", "pipe:1", "/dev/null"]
    ).decode()
    counts = re.findall(r"^frame=\s*(\d+)", told, re.MULTILINE)
    if not counts or not int(counts[-1]):
        raise AssetError(f"{path.name}: there are no frames")
    return int(counts[-1])


def read_frames(
    path: Path, indices: Sequence[int], width: int, height: int
) -> np.ndarray:
    """The frames of these numbers (from 0, in any order, any twice): uint8 RGB (n,
    height, width, 3).

    Resized until both sides cover the wanted size, then cut about the centre. Decoding
    ends at the last wanted frame. Raises AssetError: not a video, damaged, or fewer
    frames than that.
    """
    wanted = sorted(set(indices))
    select = "+".join(f"eq(n,{index})" for index in wanted)
    filters = f"select='{select}',{_FIT.format(w=width, h=height)},format=rgb24"
    output = [
        "-map",
        "0:v:0",
        "-vf",
        filters,
        "-fps_mode",
        "passthrough",
        "-frames:v",
        str(len(wanted)),
    ]
    pixels = np.frombuffer(_run(path, [*output, "-f", "rawvideo", "-"]), np.uint8)
    size = height * width * 3
    if pixels.size != size * len(wanted):
        raise AssetError(
            f"{path.name}: {pixels.size // size} of {len(wanted)} wanted frames are"
            f" there"
        )
    return pixels.reshape(-1, height, width, 3)[np.searchsorted(wanted, indices)]


def _run(path: Path, output: list[str]) -> bytes:
    if not path.is_file():
        raise AssetError(f"{path.name}: there is no such file")
    # Local files only: a playlist under a video's name is not followed. One thread:
    # loaders run side by side.
    source = ["-protocol_whitelist", "file", "-threads", "1", "-i", f"file:{path.name}"]
    try:
        return run_ffmpeg([*source, *output], folder=path.parent, timeout=_SECONDS)
    except EncodeError as error:
        raise AssetError(f"{path.name}: {error.message}") from error
