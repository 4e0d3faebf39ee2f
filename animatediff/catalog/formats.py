"""The file formats of finished clips."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class OutputFormat:
    """A file format. ``max_fps``: the fastest rate that the format can tell apart."""

    mime: str
    suffix: str
    bytes_per_pixel: float
    """Of a detailed clip, for an estimate before the work."""
    max_fps: int = 60


OUTPUT_FORMATS: Mapping[str, OutputFormat] = {
    "mp4": OutputFormat("video/mp4", ".mp4", 0.2),
    # GIF's delays are whole 1/100 s, and players slow down below 2.
    "gif": OutputFormat("image/gif", ".gif", 1.0, max_fps=50),
    "webm": OutputFormat("video/webm", ".webm", 0.2),
    "webp": OutputFormat("image/webp", ".webp", 0.4),
    "apng": OutputFormat("image/apng", ".apng", 2.5),
    "png_zip": OutputFormat("application/zip", ".zip", 2.5),
}
