"""The pictures of a job: foreign files, read in a child process within limits."""

from collections.abc import Generator
from contextlib import contextmanager

from PIL import Image

from ..errors import InvalidRequest
from ..job.clip import Clip
from ..progress import Check, no_check
from ..sandbox import ChildFailed, Limits, Sandbox
from ..settings import Settings
from .decoding import ALLOWED

_DECODE = "animatediff.controls.decoding:decode"
_BYTES_PER_PIXEL = 12  # a picture becomes three channels of float32


def check_pictures(clip: Clip, settings: Settings) -> None:
    """Check what is known of a job's pictures before any of them is fetched.

    Raises InvalidRequest for too many, or for too much memory at the clip's size.
    """
    count = sum(len(control.images) for control in clip.controls)
    if count > settings.max_pictures:
        allowed = f"at most {settings.max_pictures} in all controls of a job"
        raise InvalidRequest("controls", f"{count} pictures", allowed)
    needed = count * clip.width * clip.height * _BYTES_PER_PIXEL
    if needed > settings.picture_memory_bytes:
        shown = f"{count} pictures at {clip.width}x{clip.height}, {needed} bytes"
        allowed = f"at most {settings.picture_memory_bytes} bytes: fewer, or smaller"
        raise InvalidRequest("controls, width, height", shown, allowed)


class PictureReader:
    """Reads the pictures of one job, each straight to the size of its frames.

    ``notes`` tells what the pictures lost, each by its field. Use it on one thread, as
    a context manager; the child process starts with the first picture.
    """

    def __init__(self, clip: Clip, settings: Settings) -> None:
        self.notes: list[str] = []
        self._size = clip.width, clip.height
        self._settings = settings
        self._bytes = self._pixels = 0
        seconds = settings.picture_seconds
        self._sandbox = Sandbox(
            _DECODE, Limits(2 * seconds, seconds, settings.picture_memory_bytes)
        )

    def __enter__(self) -> "PictureReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._sandbox.close()

    def read(self, content: bytes, field: str, check: Check = no_check) -> Image.Image:
        """Return a picture file as RGB pixels of the clip's width and height.

        Raises InvalidRequest, for ``field``, if it is damaged, too large, no picture,
        or exceeds what one job may bring; and whatever ``check`` raises.
        """
        self._count_bytes(len(content), field)
        width, height = self._size
        most = int(self._settings.max_picture_megapixels * 1e6) - self._pixels
        order = {"width": width, "height": height, "most_pixels": most}
        with _failures(len(content), field, self._settings):
            facts, pixels = self._sandbox.call(
                order, content, most=3 * width * height, check=check
            )
        if "got" in facts:
            raise InvalidRequest(field, facts["got"], facts["allowed"])
        self._count_pixels(facts["pixels"], field)
        self.notes += [f"{field}: {note}" for note in facts["notes"]]
        return Image.frombytes("RGB", self._size, bytes(pixels))

    def _count_bytes(self, more: int, field: str) -> None:
        self._bytes += more
        most = self._settings.max_picture_bytes
        if self._bytes > most:
            shown = f"{self._bytes} bytes with the pictures before it"
            raise InvalidRequest(field, shown, f"at most {most} bytes in one job")

    def _count_pixels(self, more: int, field: str) -> None:
        self._pixels += more
        most = self._settings.max_picture_megapixels
        if self._pixels > most * 1e6:
            shown = f"{self._pixels / 1e6:.1f} megapixels with the pictures before it"
            raise InvalidRequest(field, shown, f"at most {most:g} in one job")


@contextmanager
def _failures(size: int, field: str, settings: Settings) -> Generator[None]:
    try:
        yield
    except ChildFailed as failure:
        seconds, memory = settings.picture_seconds, settings.picture_memory_bytes
        limits = f"{seconds} s and {memory / 1e6:.0f} MB"
        raise InvalidRequest(
            field,
            f"{size} bytes whose reading {failure.reason}",
            f"{ALLOWED}, read within {limits}",
        ) from failure
