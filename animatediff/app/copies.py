"""Other files of a finished clip, from its frames: formats, and a contact sheet."""

import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from ..errors import EncodeError
from ..video import OUTPUT_FORMATS, Video, read_metadata, write_video
from ..video.formats import format_of_content
from ..video.reading import count_frames, read_frames

_DEFAULT_FPS = 8
_SHEET_FRAMES = 8


def video_of(path: Path) -> Video:
    """Return the frames of a clip of ours. Raises EncodeError and AssetError."""
    request = read_metadata(path).get("request", {})
    fps = int(request.get("fps", _DEFAULT_FPS))
    format = format_of_content(path)
    if format in ("mp4", "webm"):
        count = count_frames(path, exact=True)
        size = (int(request["width"]), int(request["height"]))
        return Video(read_frames(path, range(count), *size), fps)
    pictures = _zipped(path) if format == "png_zip" else _pictures(path)
    return Video(np.stack(pictures), fps)


def _pictures(path: Path) -> list[np.ndarray]:
    with Image.open(path) as image:
        return [np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(image)]


def _zipped(path: Path) -> list[np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        frames: list[np.ndarray] = []
        for name in names:
            with archive.open(name) as file, Image.open(file) as image:
                frames.append(np.asarray(image.convert("RGB")))
        return frames


def in_format(path: Path, format: str, folder: Path) -> Path:
    """Return the clip in another format, written into ``folder`` if it is not there.

    Nothing is computed again but the encoding; the settings stay inside. Raises
    EncodeError and AssetError.
    """
    if format not in OUTPUT_FORMATS:
        raise EncodeError(f"there is no format {format!r}")
    if format_of_content(path) == format:
        return path
    target = folder / f"{path.stem}{OUTPUT_FORMATS[format].suffix}"
    if not target.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        metadata = read_metadata(path)
        write_video(video_of(path), target, format=format, metadata=metadata)
    return target


def contact_sheet(path: Path, folder: Path) -> Path:
    """Return a PNG with frames of the clip side by side, from the first to the last."""
    target = folder / f"{path.stem}-sheet.png"
    if not target.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        frames = video_of(path).frames
        count = min(len(frames), _SHEET_FRAMES)
        chosen = np.linspace(0, len(frames) - 1, count).round().astype(int)
        Image.fromarray(np.concatenate(list(frames[chosen]), axis=1)).save(target)
    return target
