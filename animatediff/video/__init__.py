"""From finished frames to a file, and back to how the clip was made.

The import is cheap: numpy, Pillow and ffmpeg are loaded by the first clip, and torch
only by ``grid``, which is imported by its own name.
"""

from .clip import EncodedVideo, Video
from .formats import OUTPUT_FORMATS, OutputFormat
from .metadata import read_metadata
from .writers import write_video

__all__ = [
    "OUTPUT_FORMATS",
    "EncodedVideo",
    "OutputFormat",
    "Video",
    "read_metadata",
    "write_video",
]
