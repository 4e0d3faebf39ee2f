"""From finished frames to a file. Nothing here loads torch but ``grid``, which is
imported by its own name.
"""

from .clip import EncodedVideo, Video
from .metadata import read_metadata
from .writers import WRITERS, write_video

__all__ = ["WRITERS", "EncodedVideo", "Video", "read_metadata", "write_video"]
