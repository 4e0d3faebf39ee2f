"""Several clips side by side in one file, as AnimateDiff's own scripts write them."""

from pathlib import Path

import numpy as np
import torch

from ..errors import EncodeError
from .animations import encode_gif
from .clip import Encoding, Video
from .formats import format_of_suffix
from .writers import replacing, write_video

_PADDING = 2  # pixels; torchvision's make_grid default
_LOOPS = 65535  # the published code writes this instead of 0, "forever"


def video_grid(
    videos: torch.Tensor, n_rows: int = 6, rescale: bool = False
) -> np.ndarray:
    """Arrange (b, c, f, h, w) clips as one clip of uint8 (f, H, W, 3).

    ``c`` is 3 or 1. Values are 0 to 1, or -1 to 1 with ``rescale``, or uint8. They are
    clamped, and 255 x is truncated. ``n_rows`` is the number of clips in one row, as in
    torchvision's ``make_grid(nrow=...)``. Several clips are separated and framed by
    lines of 2 pixels whose value is 0 before ``rescale``: black without it, grey with
    it. Except for the clamping, this is what the published code does. Raises
    EncodeError for any other shape.
    """
    if not _is_batch_of_clips(videos) or n_rows < 1:
        raise EncodeError(
            "a grid needs (b, c, f, h, w) with c 1 or 3, and n_rows >= 1; got"
            f" {tuple(videos.shape)}, {n_rows}"
        )
    channels_last = _pixels(videos, rescale).permute(0, 2, 3, 4, 1)
    clips = channels_last.expand(-1, -1, -1, -1, 3).numpy()  # b f h w 3
    if len(clips) == 1:
        return np.ascontiguousarray(clips[0])
    return _tiles(clips, n_rows, int(_pixels(torch.zeros(()), rescale)))


def save_videos_grid(
    videos: torch.Tensor,
    path: str | Path,
    rescale: bool = False,
    n_rows: int = 6,
    fps: int = 8,
) -> None:
    """Write ``video_grid`` to a file; its suffix selects the format.

    Missing folders are created. A GIF has the published code's timing: one delay for
    all frames, 1/fps rounded to 1/100 s (8 fps gives 130 ms). Raises EncodeError.
    """
    path = Path(path)
    format = format_of_suffix(path.suffix)
    video = Video(video_grid(videos, n_rows, rescale), fps)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EncodeError(
            f"the folder could not be created: {error.strerror}"
        ) from error
    if format == "gif":
        _write_published_gif(video, path)
    else:
        write_video(video, path, format=format, metadata={})


def _write_published_gif(video: Video, path: Path) -> None:
    delay = max(1, (200 + video.fps) // (2 * video.fps))  # 100 / fps, half rounded up
    delays = [delay] * video.num_frames
    with replacing(path) as part:
        part.write_bytes(encode_gif(video.frames, delays, _LOOPS, Encoding()))


def _is_batch_of_clips(videos: torch.Tensor) -> bool:
    if videos.ndim != 5 or 0 in videos.shape:
        return False
    return videos.shape[1] in (1, 3)


def _tiles(clips: np.ndarray, columns: int, line: int) -> np.ndarray:
    """(b, f, h, w, 3) -> (f, H, W, 3) with lines of the value ``line``."""
    count, frames, height, width, _ = clips.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    step_y = height + _PADDING
    step_x = width + _PADDING
    size = (frames, rows * step_y + _PADDING, columns * step_x + _PADDING, 3)
    grid = np.full(size, line, np.uint8)
    for index, clip in enumerate(clips):
        y = index // columns * step_y + _PADDING
        x = index % columns * step_x + _PADDING
        grid[:, y : y + height, x : x + width] = clip
    return grid


def _pixels(values: torch.Tensor, rescale: bool) -> torch.Tensor:
    if values.dtype == torch.uint8:
        return values.cpu()
    values = values.detach().float()
    if rescale:
        values = (values + 1.0) / 2.0
    return (values.clamp(0, 1) * 255).to(torch.uint8).cpu()
