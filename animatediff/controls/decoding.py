"""Picture files as RGB pixels of 8 bits.

``decode`` runs in a child process with limits, so this module needs Pillow alone, and
numpy for deep pixels.
"""

import io
import struct
from dataclasses import dataclass
from typing import Any

from PIL import AvifImagePlugin, Image, ImageOps, features

from .picture_names import FORMATS, name_of

MOST_PIXELS = 50_000_000
"""Pixels of one picture."""
READABLE = tuple(
    name
    for name in FORMATS
    if name not in ("AVIF", "WEBP") or features.check(name.lower())
)
"""Pillow's names of the formats that are read here."""
ALLOWED = (
    f"a picture ({', '.join(READABLE)}) of at most"
    f" {MOST_PIXELS // 1_000_000} megapixels"
)
_DAMAGED = (  # what Pillow raises for damaged or foreign content
    *(OSError, ValueError, SyntaxError, EOFError, TypeError, OverflowError),
    *(KeyError, IndexError, AttributeError, RuntimeError),
    *(struct.error, Image.DecompressionBombError),
)
_MOST_SCANNED = 2_500_000_000
"""Pixels of a JPEG times its scans; a usual one has 1 scan, or 10 if progressive."""
_DRAFT = 4
"""A JPEG may be decoded to this many times the size that is needed, or more."""
_VISIBLE = 16
"""Levels of 255 that a picture's lightest and darkest pixel are apart."""


class BadPicture(Exception):
    """A picture that is not accepted, with what came and what is allowed."""

    def __init__(self, got: str, allowed: str = ALLOWED) -> None:
        super().__init__(got, allowed)
        self.got = got
        self.allowed = allowed


@dataclass(frozen=True)
class Size:
    """The width and height in pixels that a picture is needed in."""

    width: int
    height: int


Flat = tuple[Image.Image, tuple[str, ...]]
"""A picture in the mode RGB, and notes about what it lost."""


def decode(
    facts: dict[str, Any], content: bytes | bytearray
) -> tuple[dict[str, Any], bytes]:
    """Answer a call of a sandbox: the picture at ``width`` x ``height``.

    Returns its number of ``pixels`` and the ``notes``, with RGB pixels of the size
    asked for; no pixels if it has more than ``most_pixels``; or what it ``got`` and
    what is ``allowed``.
    """
    Image.MAX_IMAGE_PIXELS = None  # the size is checked here
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # each takes address space
    size = Size(facts["width"], facts["height"])
    try:
        pixels = count_pixels(content)
        if pixels > facts["most_pixels"]:
            return {"pixels": pixels, "notes": []}, b""
        picture, notes = read_rgb(content, size)
    except BadPicture as error:
        return {"got": error.got, "allowed": error.allowed}, b""
    return {"pixels": pixels, "notes": notes}, fitted(picture, size).tobytes()


def count_pixels(content: bytes | bytearray) -> int:
    """Return a picture's number of pixels, from its header. Raises BadPicture."""
    try:
        with Image.open(io.BytesIO(content), formats=READABLE) as picture:
            return picture.width * picture.height
    except _DAMAGED as error:
        raise _unreadable(content) from error


def read_rgb(content: bytes | bytearray, size: Size | None = None) -> Flat:
    """Read a picture file, turned as its EXIF data demand.

    With ``size`` a large JPEG may be decoded smaller, but not below that size. Raises
    BadPicture if it is damaged, too large or no picture.
    """
    try:
        with Image.open(io.BytesIO(content), formats=READABLE) as picture:
            _check_work(picture, content)
            notes = _frames_left_out(picture)
            if size is not None:
                side = _DRAFT * max(size.width, size.height)
                picture.draft(None, (side, side))  # pyright: ignore[reportArgumentType]
            picture.load()
            ImageOps.exif_transpose(picture, in_place=True)
    except _DAMAGED as error:
        raise _unreadable(content) from error
    flat, more = flattened(picture)
    return flat, (*notes, *more)


def _check_work(picture: Image.Image, content: bytes | bytearray) -> None:
    pixels = picture.width * picture.height
    if pixels > MOST_PIXELS:
        raise BadPicture(f"{picture.width}x{picture.height} pixels")
    if picture.format in ("JPEG", "MPO"):
        # Each scan walks the whole picture, and its header is 10 bytes long.
        scans = content.count(b"\xff\xda")
        if scans * pixels > _MOST_SCANNED:
            raise BadPicture(f"a JPEG of {scans} scans")


def _unreadable(content: bytes | bytearray) -> BadPicture:
    name = name_of(content)
    if name in READABLE:
        return BadPicture(f"a damaged {name} of {len(content)} bytes")
    if name:
        return BadPicture(f"{len(content)} bytes of the format {name}")
    return BadPicture(f"{len(content)} bytes that are no such picture")


def _frames_left_out(picture: Image.Image) -> tuple[str, ...]:
    # An MPO file is a photo with previews of itself.
    if picture.format == "MPO" or not getattr(picture, "is_animated", False):
        return ()
    if picture.format == "TIFF":
        return ("only the first page is used",)
    return ("only the first frame of the animation is used",)


def flattened(picture: Image.Image) -> Flat:
    """Return ``picture`` in the mode RGB, with notes about what was lost.

    Transparent parts are shown on white, or on black if nothing would be seen on white.
    Pixels of more than 8 bits are scaled. Raises BadPicture for pixels without colours.
    """
    if picture.mode == "LAB":  # Pillow converts it by colour profiles alone
        raise BadPicture("pixels in the colour space LAB")
    notes: tuple[str, ...] = ()
    if picture.mode.startswith("I") or picture.mode == "F":
        picture, notes = _shallow(picture)
    if not picture.has_transparency_data:
        return _rgb(picture), notes
    opaque, more = _opaque(picture.convert("RGBA"))
    return opaque, (*notes, *more)


def _rgb(picture: Image.Image) -> Image.Image:
    """Convert a picture without copying one that is RGB already."""
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _opaque(picture: Image.Image) -> Flat:
    alpha = picture.getchannel("A")
    lowest, _ = alpha.getextrema()
    if lowest == 255:
        return picture.convert("RGB"), ()
    on_white = _on(picture, alpha, "white")
    if not _shows_something(on_white):
        on_black = _on(picture, alpha, "black")
        if _shows_something(on_black):
            note = "its transparent parts become black; on white nothing would be seen"
            return on_black, (note,)
    return on_white, ("its transparent parts become white",)


def _on(picture: Image.Image, alpha: Image.Image, colour: str) -> Image.Image:
    canvas = Image.new("RGB", picture.size, colour)
    canvas.paste(picture.convert("RGB"), mask=alpha)
    return canvas


def _shows_something(picture: Image.Image) -> bool:
    spans: Any = picture.getextrema()
    return any(high - low >= _VISIBLE for low, high in spans)


def _shallow(picture: Image.Image) -> Flat:
    """Scale deep gray pixels to 8 bits: the mode L, or LA if a value is transparent."""
    import numpy as np  # takes as long as all the rest of a small picture

    values = np.asarray(picture)
    transparent = picture.info.get("transparency")
    notes: tuple[str, ...] = ()
    if picture.mode.startswith("I;16"):
        low, high = 0.0, 65535.0
    else:
        low, high = _range(picture.mode, float(values.min()), float(values.max()))
        notes = (f"its deep pixels are read as {low:g} (black) to {high:g} (white)",)
    scaled = (values.astype(np.float32) - low) * (255 / (high - low or 1))
    gray = Image.fromarray(np.rint(scaled).clip(0, 255).astype(np.uint8))
    if isinstance(transparent, int):
        gray.putalpha(Image.fromarray(values != transparent).convert("L"))
    return gray, notes


def _range(mode: str, low: float, high: float) -> tuple[float, float]:
    """The values that mean black and white: the least usual range that holds all."""
    if not abs(low) + abs(high) < float("inf"):
        raise BadPicture("pixels that are no finite numbers")
    usual = (1, 255, 65535) if mode == "F" else (255, 65535)
    for white in usual:
        if low >= 0 and high <= white:
            return 0.0, float(white)
    return low, high


def fitted(picture: Image.Image, size: Size) -> Image.Image:
    """Crop an RGB picture to the aspect of ``size`` and resize it.

    The crop is the largest one about the centre: the same pixels as the random crop of
    the published script, whose scale is always 1.
    """
    aspect = size.width / size.height
    width = min(picture.width, round(picture.height * aspect))
    height = min(picture.height, round(picture.width / aspect))
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    box = (left, top, left + max(width, 1), top + max(height, 1))
    cropped = picture if box == (0, 0, *picture.size) else picture.crop(box)
    return cropped.resize((size.width, size.height), Image.Resampling.BILINEAR)
