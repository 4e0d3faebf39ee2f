"""Picture files of every kind become the RGB pixels that a person sees."""

import io
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from animatediff.controls.decoding import (
    READABLE,
    BadPicture,
    Size,
    decode,
    fitted,
    read_rgb,
)

RED, LIME, BLUE, WHITE, BLACK = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 255),
    (0, 0, 0),
)
RAMP = np.arange(256, dtype=np.uint16)[None].repeat(8, axis=0)  # 8 x 256
WHITE_NOTE = "its transparent parts become white"
BLACK_NOTE = "its transparent parts become black; on white nothing would be seen"


def saved(picture: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    content = io.BytesIO()
    picture.save(content, format, **options)
    return content.getvalue()


def quarters(mode: str = "RGB") -> Image.Image:
    """Red and lime above, blue and white below; 32 x 16."""
    picture = Image.new("RGB", (32, 16), WHITE)
    for place, colour in (((0, 0), RED), ((16, 0), LIME), ((0, 8), BLUE)):
        picture.paste(colour, (*place, place[0] + 16, place[1] + 8))
    return picture.convert(mode)


def corners(picture: Image.Image) -> list[Any]:
    right, low = picture.width - 4, picture.height - 4
    return [picture.getpixel(at) for at in ((3, 3), (right, 3), (3, low), (right, low))]


def ring(mode: str, back: tuple[int, ...], line: tuple[int, ...]) -> Image.Image:
    picture = Image.new(mode, (64, 64), back)
    ImageDraw.Draw(picture).ellipse((16, 16, 48, 48), outline=line, width=3)
    return picture


MODES = {
    "PNG": ("RGB", "RGBA", "P"),
    "JPEG": ("RGB", "CMYK"),
    "BMP": ("RGB", "RGBA", "P"),
    "TIFF": ("RGB", "RGBA", "P", "CMYK"),
}


@pytest.mark.parametrize(
    ("format", "mode"),
    [(name, m) for name in READABLE for m in MODES.get(name, ("RGB", "RGBA", "P"))],
)
def test_colours_of_every_format_and_mode(format: str, mode: str) -> None:
    lossless = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100}}
    options = {"quality": 100} if format == "JPEG" else lossless.get(format, {})
    picture, notes = read_rgb(saved(quarters(mode), format, **options))
    assert notes == ()
    for pixel, colour in zip(corners(picture), (RED, LIME, BLUE, WHITE), strict=True):
        assert np.abs(np.subtract(pixel, colour)).max() <= 8


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_gray_pixels(mode: str) -> None:
    picture, _ = read_rgb(saved(Image.new("L", (9, 7), 255).convert(mode)))
    assert (picture.mode, picture.getpixel((8, 6))) == ("RGB", WHITE)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bits_are_scaled(format: str) -> None:
    picture, notes = read_rgb(saved(Image.fromarray(RAMP * 257), format))
    assert (np.asarray(picture) == RAMP[..., None]).all()
    assert notes == ()


def test_16_bits_with_a_transparent_value() -> None:
    content = saved(Image.fromarray(RAMP * 257), transparency=0)
    picture, notes = read_rgb(content)
    assert corners(picture)[1] == (252, 252, 252)
    assert picture.getpixel((0, 0)) == WHITE
    assert notes == (WHITE_NOTE,)


@pytest.mark.parametrize(
    ("values", "white"),
    [
        (RAMP.astype(np.int32), 255),
        (RAMP.astype(np.int32) * 257, 65535),
        (RAMP.astype(np.float32) / 255, 1),
        (RAMP.astype(np.float32), 255),
        (RAMP.astype(np.float32) * 257, 65535),
    ],
)
def test_deep_pixels_are_scaled_from_their_range(
    values: np.ndarray, white: int
) -> None:
    picture, notes = read_rgb(saved(Image.fromarray(values), "TIFF"))
    assert (np.asarray(picture) == RAMP[..., None]).all()
    assert notes == (f"its deep pixels are read as 0 (black) to {white} (white)",)


def test_deep_pixels_of_no_usual_range_are_stretched() -> None:
    values = RAMP.astype(np.float32) * 10 - 500
    picture, notes = read_rgb(saved(Image.fromarray(values), "TIFF"))
    assert (np.asarray(picture) == RAMP[..., None]).all()
    assert notes == ("its deep pixels are read as -500 (black) to 2050 (white)",)
    values[0, 0] = np.nan
    with pytest.raises(BadPicture, match="finite"):
        read_rgb(saved(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("back", "line", "shown", "note"),
    [
        ((0, 0, 0, 0), (0, 0, 0, 255), ring("RGB", WHITE, BLACK), WHITE_NOTE),
        ((255, 0, 0, 0), (0, 0, 255, 255), ring("RGB", WHITE, BLUE), WHITE_NOTE),
        ((255,) * 3 + (0,), (255,) * 4, ring("RGB", BLACK, WHITE), BLACK_NOTE),
        ((0, 0, 0, 0), (0, 0, 0, 0), ring("RGB", WHITE, WHITE), WHITE_NOTE),
    ],
)
def test_transparent_parts_get_a_background(
    format: str, back: tuple, line: tuple, shown: Image.Image, note: str
) -> None:
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    picture, notes = read_rgb(saved(ring("RGBA", back, line), format, **options))
    assert notes == (note,)
    assert picture.tobytes() == shown.tobytes()


@pytest.mark.parametrize("mode", ["LA", "P", "1", "L", "RGB"])
def test_transparency_of_every_mode(mode: str) -> None:
    drawing = ring("RGB", BLACK, WHITE).convert("LA" if mode == "LA" else mode)
    options: dict[str, Any] = {}
    if mode == "LA":
        drawing.putalpha(drawing.getchannel("L"))
    elif mode == "P":
        options = {"transparency": drawing.getpixel((0, 0))}
    else:
        options = {"transparency": BLACK if mode == "RGB" else 0}
    picture, notes = read_rgb(saved(drawing, **options))
    assert notes == (BLACK_NOTE,)
    assert picture.tobytes() == ring("RGB", BLACK, WHITE).tobytes()


def test_half_transparent_pixels_are_mixed() -> None:
    picture, _ = read_rgb(saved(Image.new("RGBA", (8, 8), (0, 0, 0, 51))))
    assert picture.getpixel((4, 4)) == (204, 204, 204)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_their_exif_data_demand(
    format: str, orientation: int
) -> None:
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    seen = quarters()
    stored = seen.transpose(turn[orientation]) if orientation > 1 else seen
    picture, _ = read_rgb(saved(stored, format, exif=exif))
    assert picture.size == seen.size
    assert np.abs(np.subtract(corners(picture), corners(seen))).max() < 70


@pytest.mark.parametrize(
    ("format", "note"),
    [
        ("GIF", "only the first frame of the animation is used"),
        ("WEBP", "only the first frame of the animation is used"),
        ("PNG", "only the first frame of the animation is used"),
        ("AVIF", "only the first frame of the animation is used"),
        ("TIFF", "only the first page is used"),
    ],
)
def test_of_an_animation_the_first_frame_is_used(format: str, note: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, BLUE)]
    content = saved(frames[0], format, save_all=True, append_images=frames[1:])
    picture, notes = read_rgb(content)
    assert notes == (note,)
    assert np.abs(np.subtract(corners(picture)[0], RED)).max() < 8


def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same() -> None:
    size = Size(64, 48)
    wheel = Image.radial_gradient("L").resize((2048, 2048))
    content = saved(wheel.convert("RGB"), "JPEG", quality=90)
    whole, _ = read_rgb(content)
    draft, _ = read_rgb(content, size)
    assert (whole.size, draft.size) == ((2048, 2048), (256, 256))
    both = [np.asarray(fitted(each, size), np.int16) for each in (whole, draft)]
    assert np.abs(both[0] - both[1]).max() <= 2


def test_a_small_jpeg_is_decoded_whole() -> None:
    picture, _ = read_rgb(saved(Image.new("RGB", (250, 250)), "JPEG"), Size(64, 64))
    assert picture.size == (250, 250)


def bomb(side: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    content = saved(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    end = content.rindex(b"\xff\xd9")
    last = content[content.rindex(b"\xff\xda") : end]
    return content[:end] + last * scans + content[end:]


def test_a_jpeg_of_too_many_scans_is_refused_at_once() -> None:
    start = time.perf_counter()
    with pytest.raises(BadPicture, match="a JPEG of 20[0-9]{2} scans"):
        read_rgb(bomb(2000, 2000))
    assert time.perf_counter() - start < 1
    picture, _ = read_rgb(bomb(200, 100))
    assert picture.size == (200, 200)


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(90), "of the format HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif" + bytes(90), "a damaged AVIF"),
        (b"\0\0\0\x18ftypisom\0\0\0\0mp41    ", "of the format MP4 video"),
        (b"\x1aE\xdf\xa3" + bytes(90), "of the format WebM or Matroska video"),
        (b'<?xml version="1.0"?>\n<SVG width="9"/>', "of the format SVG"),
        (b"%PDF-1.7", "of the format PDF"),
        (b"<!DOCTYPE html><p>", "of the format HTML"),
        (b"\0\0\0\x0cJXL \r\n", "of the format JPEG XL"),
        (saved(quarters(), "JPEG2000"), "of the format JPEG 2000"),
        (saved(quarters(), "ICO"), "of the format ICO"),
        (saved(quarters())[:40], "a damaged PNG of 40 bytes"),
        (saved(quarters(), "AVIF")[:200], "a damaged AVIF"),
        (b"RIFF\0\0\0\0AVI ", "of the format AVI video"),
        (b"what is this", "12 bytes that are no such picture"),
        (b"", "0 bytes that are no such picture"),
    ],
)
def test_other_files_are_named_with_the_formats_that_are_read(
    content: bytes, got: str
) -> None:
    with pytest.raises(BadPicture) as caught:
        read_rgb(content)
    assert got in caught.value.got
    assert "PNG, JPEG, WEBP, BMP, GIF, TIFF, AVIF" in caught.value.allowed


def test_a_colour_space_without_rgb_is_named() -> None:
    with pytest.raises(BadPicture, match="LAB"):
        read_rgb(saved(Image.new("LAB", (8, 8)), "TIFF"))


def test_a_child_answers_with_pixels_or_with_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    order = {"width": 8, "height": 16, "most_pixels": 512}
    facts, pixels = decode(order, saved(Image.new("L", (32, 16), 7)))
    assert facts == {"pixels": 512, "notes": ()}
    assert pixels == b"\7" * (8 * 16 * 3)
    assert decode({**order, "most_pixels": 511}, saved(quarters())) == (
        {"pixels": 512, "notes": []},
        b"",
    )
    facts, pixels = decode(order, b"no")
    assert facts["got"] == "2 bytes that are no such picture"
    huge = Image.new("1", (8000, 8000))
    assert "8000x8000" in decode({**order, "most_pixels": 10**9}, saved(huge))[0]["got"]


def test_the_decoder_needs_no_heavy_library() -> None:
    code = (
        "import sys, animatediff.controls.decoding;"
        "print({'torch', 'numpy', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
