"""GIF, animated WebP, APNG, and a zip of PNG files.

Pillow compresses the single pictures; the containers are put together here. Pillow's
own animation writers drop a frame that equals the one before it, and a clip of one
frame loses its delay. Here every frame of the clip is a frame of the file, with its
own delay.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.ExifTags import Base as ExifTag

from .clip import Encoding, Video, frame_delays
from .colours import UNCHANGED, Frame, colours_of

ENDLESS = 0
"""The loop count that means "forever" in all three animation formats."""

_MOST_COMMENT = 4_000_000  # bytes; a zip can hold a thousand times its own size
_PALETTE_BYTES = 768  # 256 colours
_PNG_COMPRESSION = 4  # zlib level; half the time of the default 6


def write_gif(video: Video, path: Path, how: Encoding) -> None:
    """Write 256 colours, with one palette for the clip.

    Delays are whole 1/100 s.
    """
    delays = frame_delays(video.num_frames, video.fps, 100)
    path.write_bytes(encode_gif(video.frames, delays, ENDLESS, how))


def read_gif_comment(path: Path) -> str:
    """Return the comment of a GIF file.

    Raises KeyError if there is none, OSError if Pillow cannot read the file.
    """
    with _opened(path, "GIF") as image:
        return image.info["comment"].decode("ascii")


def write_webp(video: Video, path: Path, how: Encoding) -> None:
    """Write lossy WebP; every frame is a key frame.

    Delays are whole milliseconds. The comment is the EXIF description.
    """
    delays = frame_delays(video.num_frames, video.fps, 1000)
    path.write_bytes(encode_webp(video.frames, delays, how))


def read_webp_comment(path: Path) -> str:
    """Return the EXIF description of a WebP file.

    Raises KeyError if there is none, OSError if Pillow cannot read the file.
    """
    with _opened(path, "WEBP") as image:
        return image.getexif()[ExifTag.ImageDescription]


def write_apng(video: Video, path: Path, how: Encoding) -> None:
    """Write lossless animated PNG.

    The delay of a frame is the exact fraction 1/fps. The comment is a tEXt chunk.
    Source: the APNG chapter of the W3C PNG specification, third edition.
    """
    header, first_pixels = _png_parts(video.frames[0])
    chunks = [
        _png_chunk(b"IHDR", header),
        _png_chunk(b"acTL", struct.pack(">II", video.num_frames, ENDLESS)),
        _png_chunk(b"tEXt", b"Comment\0" + how.comment.encode("ascii")),
        _png_chunk(b"fcTL", _frame_control(video, 0)),
        _png_chunk(b"IDAT", first_pixels),
    ]
    for index, frame in enumerate(video.frames[1:], start=1):
        how.check()
        _, pixels = _png_parts(frame)
        sequence_number = struct.pack(">I", 2 * index)
        chunks.append(_png_chunk(b"fcTL", _frame_control(video, 2 * index - 1)))
        chunks.append(_png_chunk(b"fdAT", sequence_number + pixels))
    chunks.append(_png_chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def read_apng_comment(path: Path) -> str:
    """Return the comment of a PNG file.

    Raises KeyError if there is none, OSError or SyntaxError if Pillow cannot read the
    file.
    """
    with _opened(path, "PNG") as image:
        return image.info["Comment"]


def write_png_zip(video: Video, path: Path, how: Encoding) -> None:
    """Write a zip of lossless frames, with the comment as metadata.json.

    The frames are frame_0000.png and so on. They are stored without compression,
    because PNG is compressed already.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for index, frame in enumerate(video.frames):
            how.check()
            png = _compressed(frame, "PNG", compress_level=_PNG_COMPRESSION)
            # A new ZipInfo has a fixed date, so equal clips give equal files.
            archive.writestr(zipfile.ZipInfo(f"frame_{index:04d}.png"), png)
        archive.writestr(zipfile.ZipInfo("metadata.json"), how.comment)


def read_png_zip_comment(path: Path) -> str:
    """Return the metadata.json of a zip file.

    Raises KeyError if there is none, ValueError if it is too long, BadZipFile if the
    file is damaged.
    """
    with zipfile.ZipFile(path) as archive, archive.open("metadata.json") as file:
        comment = file.read(_MOST_COMMENT + 1)
    if len(comment) > _MOST_COMMENT:
        raise ValueError("the comment is too long")
    return comment.decode("ascii")


def encode_gif(frames: Frame, delays: list[int], loop: int, how: Encoding) -> bytes:
    """Encode uint8 (f, h, w, 3) frames as a GIF file.

    ``delays`` has one value per frame, in 1/100 s. Every frame after the first holds
    only the box that changed, and in it only the pixels that changed.
    """
    height, width = frames.shape[1:3]
    colours = colours_of(frames)
    blocks = [_gif_header(width, height, colours.table, loop)]
    if how.comment:
        blocks.append(_gif_comment(how.comment))
    previous = np.full((height, width), UNCHANGED, np.uint8)
    for frame, delay in zip(frames, delays, strict=True):
        how.check()
        indices = colours.indices(frame, previous)
        blocks.append(_gif_frame(indices, previous, delay))
        previous = indices
    return b"".join(blocks) + b";"


def encode_webp(frames: Frame, delays: list[int], how: Encoding) -> bytes:
    """Encode uint8 (f, h, w, 3) frames as lossy WebP that runs for ever.

    ``delays`` has one value per frame, in milliseconds.
    """
    height, width = frames.shape[1:3]
    size = _uint24(width - 1) + _uint24(height - 1)
    has_exif_and_animation = bytes([0x08 | 0x02, 0, 0, 0])
    background_and_loops = struct.pack("<IH", 0, ENDLESS)
    chunks = [
        _riff_chunk(b"VP8X", has_exif_and_animation + size),
        _riff_chunk(b"ANIM", background_and_loops),
    ]
    for frame, delay in zip(frames, delays, strict=True):
        how.check()
        chunks.append(_webp_frame(frame, size, delay, how.quality))
    exif = Image.Exif()
    exif[ExifTag.ImageDescription] = how.comment
    chunks.append(_riff_chunk(b"EXIF", exif.tobytes().removeprefix(b"Exif\0\0")))
    return _riff_chunk(b"RIFF", b"WEBP" + b"".join(chunks))


def _gif_header(width: int, height: int, table: Frame, loop: int) -> bytes:
    table_of_256_colours = 0xF7
    screen = struct.pack("<HHBBB", width, height, table_of_256_colours, 0, 0)
    colours = table.tobytes().ljust(_PALETTE_BYTES, b"\0")
    looping = b"\x21\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<H", loop) + b"\0"
    return b"GIF89a" + screen + colours + looping


def _gif_comment(comment: str) -> bytes:
    text = comment.encode("ascii")
    parts = [text[start : start + 255] for start in range(0, len(text), 255)]
    blocks = [bytes([len(part)]) + part for part in parts]
    return b"\x21\xfe" + b"".join(blocks) + b"\0"


def _gif_frame(indices: np.ndarray, previous: np.ndarray, delay: int) -> bytes:
    changed = indices != previous
    top, bottom = _span(changed.any(axis=1))
    left, right = _span(changed.any(axis=0))
    box = np.where(changed, indices, UNCHANGED)[top:bottom, left:right]
    keep_and_transparent = 0x05
    control = struct.pack(
        "<4BHBB", 0x21, 0xF9, 4, keep_and_transparent, delay, UNCHANGED, 0
    )
    place = struct.pack("<B4HB", 0x2C, left, top, right - left, bottom - top, 0)
    return control + place + _lzw(box)


def _span(changed: np.ndarray) -> tuple[int, int]:
    """Return the first true place and one past the last.

    Without any, it is the first place alone, because a GIF picture cannot be empty.
    """
    places = np.flatnonzero(changed)
    if not len(places):
        return 0, 1
    return int(places[0]), int(places[-1]) + 1


def _lzw(indices: np.ndarray) -> bytes:
    """Return the picture data of a GIF: code size, sub-blocks and their end."""
    picture = Image.fromarray(indices).convert("P")
    gif = _compressed_image(picture, "GIF", optimize=False, interlace=False)
    descriptor = 13 + _PALETTE_BYTES  # after the screen descriptor and the colours
    assert gif[descriptor] == 0x2C  # noqa: S101 - Pillow's own layout
    return gif[descriptor + 10 : -1]


def _webp_frame(frame: np.ndarray, size: bytes, delay: int, quality: int) -> bytes:
    webp = _compressed(frame, "WEBP", quality=quality)
    picture = webp[12:]  # without "RIFF", the size and "WEBP"
    no_offset = _uint24(0) * 2
    no_blending = b"\x02"
    content = no_offset + size + _uint24(delay) + no_blending + picture
    return _riff_chunk(b"ANMF", content)


def _frame_control(video: Video, sequence_number: int) -> bytes:
    """Return the fcTL content of a whole frame that replaces the one before it."""
    place = struct.pack(">4I", video.width, video.height, 0, 0)
    delay = struct.pack(">2H", 1, video.fps)
    keep_and_replace = bytes([0, 0])
    return struct.pack(">I", sequence_number) + place + delay + keep_and_replace


def _png_parts(frame: np.ndarray) -> tuple[bytes, bytes]:
    """Return IHDR and the joined IDAT of one frame."""
    png = _compressed(frame, "PNG", compress_level=_PNG_COMPRESSION)
    chunks = list(_png_chunks(png))
    _, header = chunks[0]
    pixels = [data for kind, data in chunks if kind == b"IDAT"]
    return header, b"".join(pixels)


def _png_chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    offset = 8
    while offset < len(png):
        length = int.from_bytes(png[offset : offset + 4], "big")
        kind = png[offset + 4 : offset + 8]
        yield kind, png[offset + 8 : offset + 8 + length]
        offset += 12 + length


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def _riff_chunk(kind: bytes, data: bytes) -> bytes:
    padding = b"\0" * (len(data) % 2)
    return kind + struct.pack("<I", len(data)) + data + padding


def _opened(path: Path, pillow_format: str) -> Image.Image:
    """Open a picture. Raises ValueError if it is too large to be a frame of ours."""
    try:
        return Image.open(path, formats=[pillow_format])
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error


def _compressed(frame: np.ndarray, pillow_format: str, **options: int) -> bytes:
    return _compressed_image(Image.fromarray(frame), pillow_format, **options)


def _compressed_image(image: Image.Image, pillow_format: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, pillow_format, **options)
    return buffer.getvalue()


def _uint24(value: int) -> bytes:
    return value.to_bytes(3, "little")
