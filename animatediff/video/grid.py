"""The file that AnimateDiff's own scripts write: the clips of a batch side by side, as
one GIF.
"""

from pathlib import Path

import numpy as np
import torch

from ..catalog import OUTPUT_FORMATS
from ..errors import EncodeError
from .animations import encode_gif
from .clip import Video
from .writers import replacing, write_video

_PADDING = 2  # pixels; torchvision's make_grid default
_LOOPS = 65535  # what the published code's files say instead of 0, "forever"


def video_grid(
    videos: torch.Tensor, n_rows: int = 6, rescale: bool = False
) -> np.ndarray:
    """``videos`` (b, c, f, h, w), c 3 or 1, values 0..1, or -1..1 with ``rescale``, or
    uint8 -> uint8 (f, H, W, 3).

    ``n_rows`` is the number of clips in one row, as in torchvision's
    ``make_grid(nrow=...)``. There are lines of 2 px around each clip, and none if there
    is only one; their value is 0 before ``rescale``, so black without it and grey with
    it. Values out of range are clamped, then 255 x is cut to a whole number. All but
    the clamping is as in the published code. Raises EncodeError for another shape.
    """
    if (
        videos.ndim != 5
        or 0 in videos.shape
        or videos.shape[1] not in (1, 3)
        or n_rows < 1
    ):
        raise EncodeError(
            f"a grid needs (b, c, f, h, w) with c 1 or 3, and n_rows >= 1; got"
            f" {tuple(videos.shape)}, {n_rows}"
        )
    clips = (
        _pixels(videos, rescale)
        .permute(0, 2, 3, 4, 1)
        .expand(-1, -1, -1, -1, 3)
        .numpy()
    )  # b f h w 3
    if len(clips) == 1:
        return np.ascontiguousarray(clips[0])
    count, frames, height, width, _ = clips.shape
    columns = min(n_rows, count)
    rows = -(-count // columns)
    step_y, step_x = height + _PADDING, width + _PADDING
    size = (frames, rows * step_y + _PADDING, columns * step_x + _PADDING, 3)
    grid = np.full(size, _pixels(torch.zeros(()), rescale), np.uint8)
    for index, clip in enumerate(clips):
        y, x = index // columns * step_y + _PADDING, index % columns * step_x + _PADDING
        grid[:, y : y + height, x : x + width] = clip
    return grid


def _pixels(values: torch.Tensor, rescale: bool) -> torch.Tensor:
    if values.dtype == torch.uint8:
        return values.cpu()
    values = values.detach().float()
    if rescale:
        values = (values + 1.0) / 2.0
    return (values.clamp(0, 1) * 255).to(torch.uint8).cpu()


def save_videos_grid(
    videos: torch.Tensor,
    path: str | Path,
    rescale: bool = False,
    n_rows: int = 6,
    fps: int = 8,
) -> None:
    """``video_grid`` as a file, of the format that the suffix of ``path`` names. Makes
    missing folders.

    A GIF is timed as the published code's: one delay for all frames, 1/fps rounded to
    1/100 s (8 fps gives 130 ms). Raises EncodeError.
    """
    path = Path(path)
    formats = {kind.suffix: name for name, kind in OUTPUT_FORMATS.items()}
    if path.suffix.lower() not in formats:
        raise EncodeError(
            f"unknown suffix {path.suffix!r}, there are: {', '.join(formats)}"
        )
    video = Video(video_grid(videos, n_rows, rescale), fps)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EncodeError(f"the folder could not be made: {error.strerror}") from error
    format = formats[path.suffix.lower()]
    if format != "gif":
        write_video(video, path, format=format, metadata={})
        return
    delay = max(1, (200 + fps) // (2 * fps))  # 100 / fps, half rounded up
    with replacing(path) as part:
        part.write_bytes(encode_gif(video.frames, [delay] * video.num_frames, _LOOPS))
