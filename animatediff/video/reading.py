"""Read single frames of a video file, by ffmpeg.

Only the requested frames are held in memory.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import AssetError, EncodeError
from ..sandbox import Limits
from .ffmpeg import run_ffmpeg

_LIMITS = Limits(300, 300, 4_000_000_000)
"""For one file. One that takes more counts as damaged."""
_SCALE_FLAGS = "bicubic+accurate_rnd+full_chroma_int"


def count_frames(path: Path, exact: bool = False) -> int:
    """Return how many frames the first video stream has.

    By default packets are counted. With ``exact`` all frames are decoded, which takes
    some hundred times longer; a file that is cut off, or that marks frames as skipped,
    has fewer frames than packets. Raises AssetError, without folders of this host in
    its message.
    """
    copy = "" if exact else "-c copy"
    output = f"-map 0:v:0 {copy} -f null -progress pipe:1 /dev/null"
    log = _run(path, output).decode()
    counts = re.findall(r"^frame=\s*(\d+)", log, re.MULTILINE)
    count = int(counts[-1]) if counts else 0
    if count == 0:
        raise AssetError(f"{path.name}: the file has no frames")
    return count


def read_frames(
    path: Path, indices: Sequence[int], width: int, height: int
) -> np.ndarray:
    """Return the frames with these indices as uint8 RGB (n, height, width, 3).

    Indices start at 0, may come in any order, and may repeat. Each frame is resized
    until it covers ``width`` and ``height``, then cropped about its centre. Decoding
    stops at the last requested frame. Raises AssetError if the file is not a video, is
    damaged or has too few frames.
    """
    distinct = sorted(set(indices))
    filters = f"{_select(distinct)},{_cover(width, height)},format=rgb24"
    frames = f"-map 0:v:0 -vf {filters} -fps_mode passthrough"
    output = f"{frames} -frames:v {len(distinct)} -f rawvideo -"
    pixels = np.frombuffer(_run(path, output), np.uint8)
    count, rest = divmod(pixels.size, height * width * 3)
    if rest or count != len(distinct):
        raise AssetError(
            f"{path.name}: only {count} of {len(distinct)} requested frames exist"
        )
    decoded = pixels.reshape(-1, height, width, 3)
    return decoded[np.searchsorted(distinct, indices)]


def _select(indices: list[int]) -> str:
    conditions = "+".join(f"eq(n,{index})" for index in indices)
    return f"select='{conditions}'"


def _cover(width: int, height: int) -> str:
    size = f"{width}:{height}"
    scale = f"scale={size}:force_original_aspect_ratio=increase:flags={_SCALE_FLAGS}"
    return f"{scale},crop={size}"


def _run(path: Path, output: str) -> bytes:
    if not path.is_file():
        raise AssetError(f"{path.name}: the file does not exist")
    # Only local files are allowed, so a playlist with the name of a video is not
    # followed. One thread is enough, because loaders run side by side.
    source = ["-protocol_whitelist", "file", "-threads", "1", "-i", f"file:{path.name}"]
    try:
        return run_ffmpeg([*source, *output.split()], path.parent, limits=_LIMITS)
    except EncodeError as error:
        raise AssetError(f"{path.name}: {error.message}") from error
