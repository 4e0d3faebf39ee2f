"""GIF, animated WebP, APNG and a zip of PNG, put together from single pictures that
Pillow compressed.

Pillow's own animation writers drop a frame that equals the one before it, and a
one-frame clip loses its duration. Here every frame of the clip is a frame of the file,
with a delay that we chose.
"""

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.ExifTags import Base as ExifTag

from .clip import Video, frame_delays

ENDLESS = 0
"""The loop count that means "forever" in all three animation formats."""

_PALETTE_SAMPLE = (
    1 << 16
)  # pixels; all those of 16 512x512 frames would take seconds and give the same colours
_TRANSPARENT = 255  # the last palette entry stands for "as in the frame before"
_PNG_COMPRESSION = 4  # zlib level: half the time of the default 6


def write_gif(video: Video, path: Path, _quality: int, comment: str) -> None:
    """256 colours, one palette for the clip. The delays are whole 1/100 s."""
    path.write_bytes(
        encode_gif(
            video.frames,
            frame_delays(video.num_frames, video.fps, 100),
            ENDLESS,
            comment,
        )
    )


def write_webp(video: Video, path: Path, quality: int, comment: str) -> None:
    """Lossy WebP, every frame a key frame. The delays are whole milliseconds, the
    comment is the EXIF description.
    """
    exif = Image.Exif()
    exif[ExifTag.ImageDescription] = comment
    size = _uint24(video.width - 1) + _uint24(video.height - 1)
    has_exif_and_animation = 0x08 | 0x02
    chunks = [
        _riff_chunk(b"VP8X", bytes([has_exif_and_animation, 0, 0, 0]) + size),
        _riff_chunk(
            b"ANIM", struct.pack("<IH", 0, ENDLESS)
        ),  # background colour, loops
    ]
    for frame, delay in zip(
        video.frames, frame_delays(video.num_frames, video.fps, 1000), strict=True
    ):
        picture = _compressed(frame, "WEBP", quality=quality)[
            12:
        ]  # without "RIFF", size, "WEBP"
        no_blend = b"\x02"
        chunks.append(
            _riff_chunk(
                b"ANMF", _uint24(0) * 2 + size + _uint24(delay) + no_blend + picture
            )
        )
    chunks.append(_riff_chunk(b"EXIF", exif.tobytes().removeprefix(b"Exif\0\0")))
    path.write_bytes(_riff_chunk(b"RIFF", b"WEBP" + b"".join(chunks)))


def write_apng(video: Video, path: Path, _quality: int, comment: str) -> None:
    """Lossless. The delay of a frame is the exact fraction 1/fps; the comment is a tEXt
    chunk.

    Source: the APNG chapter of the W3C PNG specification, third edition.
    """
    chunks = []
    for index, frame in enumerate(video.frames):
        header, pixels = _png_parts(frame)
        control = struct.pack(
            ">5I2H2B",
            max(0, 2 * index - 1),
            video.width,
            video.height,
            0,
            0,
            1,
            video.fps,
            0,
            0,
        )
        if index == 0:
            chunks += [
                _png_chunk(b"IHDR", header),
                _png_chunk(b"acTL", struct.pack(">II", video.num_frames, ENDLESS)),
                _png_chunk(b"tEXt", b"Comment\0" + comment.encode("ascii")),
                _png_chunk(b"fcTL", control),
                _png_chunk(b"IDAT", pixels),
            ]
        else:
            chunks += [
                _png_chunk(b"fcTL", control),
                _png_chunk(b"fdAT", struct.pack(">I", 2 * index) + pixels),
            ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + _png_chunk(b"IEND", b""))


def write_png_zip(video: Video, path: Path, _quality: int, comment: str) -> None:
    """Lossless: frame_0000.png and so on, with the comment as metadata.json. Stored,
    for PNG is compressed already.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for index, frame in enumerate(video.frames):
            png = _compressed(frame, "PNG", compress_level=_PNG_COMPRESSION)
            archive.writestr(
                zipfile.ZipInfo(f"frame_{index:04d}.png"), png
            )  # a ZipInfo of its own has a fixed date
        archive.writestr(zipfile.ZipInfo("metadata.json"), comment)


def encode_gif(
    frames: np.ndarray, delays: list[int], loop: int, comment: str = ""
) -> bytes:
    """``frames`` (f, h, w, 3) uint8 as a GIF file; ``delays`` in 1/100 s, one for each
    frame.

    A frame after the first holds only the box that changed, and there only the pixels
    that changed.
    """
    height, width = frames.shape[1:3]
    palette = _clip_palette(frames)
    colours = bytes(palette.getpalette() or []).ljust(768, b"\0")
    blocks = [
        b"GIF89a",
        struct.pack("<HHBBB", width, height, 0xF7, 0, 0),
        colours,
    ]  # 0xF7: a table of 256 colours
    blocks.append(b"\x21\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<H", loop) + b"\0")
    if comment:
        text = comment.encode("ascii")
        parts = [text[i : i + 255] for i in range(0, len(text), 255)]
        blocks.append(
            b"\x21\xfe" + b"".join(bytes([len(part)]) + part for part in parts) + b"\0"
        )

    shown = np.full((height, width), _TRANSPARENT, np.uint8)
    for frame, delay in zip(frames, delays, strict=True):
        indices = np.asarray(Image.fromarray(frame).quantize(palette=palette))
        changed = indices != shown
        top, bottom = _span(changed.any(axis=1))
        left, right = _span(changed.any(axis=0))
        box = np.where(changed, indices, _TRANSPARENT)[top:bottom, left:right]
        keep_and_transparent = 0x05
        blocks.append(
            struct.pack(
                "<4BHBB", 0x21, 0xF9, 4, keep_and_transparent, delay, _TRANSPARENT, 0
            )
        )
        blocks.append(
            struct.pack("<B4HB", 0x2C, left, top, right - left, bottom - top, 0)
            + _lzw(box)
        )
        shown = indices
    return b"".join(blocks) + b";"


def _clip_palette(frames: np.ndarray) -> Image.Image:
    pixels = frames.reshape(-1, 3)
    if len(pixels) > _PALETTE_SAMPLE:
        # By chance and not by a stride, which would see only some columns. The seed is
        # fixed: same clip, same file.
        pixels = pixels[
            np.random.default_rng(0).integers(len(pixels), size=_PALETTE_SAMPLE)
        ]
    # Of Pillow's methods the one whose dithered areas come nearest to the true colour.
    return Image.fromarray(pixels[None]).quantize(
        _TRANSPARENT, method=Image.Quantize.MAXCOVERAGE
    )


def _span(changed: np.ndarray) -> tuple[int, int]:
    """First and one past the last true place; one place if there is none, because a GIF
    picture cannot be empty.
    """
    places = np.flatnonzero(changed)
    return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 1)


def _lzw(indices: np.ndarray) -> bytes:
    """The picture data of a GIF: code size, sub-blocks and their end."""
    picture = Image.fromarray(indices).convert("P")
    gif = _compressed_image(picture, "GIF", optimize=False, interlace=False)
    start = 13 + 768 + 10  # screen descriptor, colour table, picture descriptor
    assert gif[13 + 768] == 0x2C, "Pillow wrote a GIF of another layout"
    return gif[start:-1]


def _compressed(frame: np.ndarray, pillow_format: str, **options: int) -> bytes:
    return _compressed_image(Image.fromarray(frame), pillow_format, **options)


def _compressed_image(image: Image.Image, pillow_format: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, pillow_format, **options)
    return buffer.getvalue()


def _png_parts(frame: np.ndarray) -> tuple[bytes, bytes]:
    """IHDR and the joined IDAT of one frame."""
    png = _compressed(frame, "PNG", compress_level=_PNG_COMPRESSION)
    header, pixels, offset = b"", [], 8
    while offset < len(png):
        length, kind = struct.unpack_from(">I4s", png, offset)
        data = png[offset + 8 : offset + 8 + length]
        if kind == b"IHDR":
            header = data
        elif kind == b"IDAT":
            pixels.append(data)
        offset += 12 + length
    return header, b"".join(pixels)


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return (
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data))
    )


def _riff_chunk(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def _uint24(value: int) -> bytes:
    return value.to_bytes(3, "little")
