"""Controls' images: damaged, with enormous sizes in the header, or broken base64; and
small files that take long, or much memory, to read.
"""

import base64
import io
import re
import resource
import time
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from lab.hostile.pictures import blank, repeated_scans
from tests.fuzz.odd_bytes import damaged, resized, with_checksums
from tests.fuzz.odd_values import TEXT
from tests.fuzz.service import SMALLEST, Service, share

# Pillow warns about the parts of a damaged file that it skips.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def _saved(mode: str, format: str, **options: object) -> bytes:
    picture = Image.radial_gradient("L").resize((33, 21)).convert(mode)
    content = io.BytesIO()
    picture.save(content, format, **options)
    return content.getvalue()


def _originals() -> list[bytes]:
    exif, words = Image.Exif(), PngImagePlugin.PngInfo()
    exif[0x0112], exif[0x010E] = 6, "turned"
    words.add_text("a", "b")
    words.add_text("zipped", "c" * 200, zip=True)
    words.add_itxt("word", "é", zip=True)
    more = {
        "save_all": True,
        "append_images": [Image.new("RGB", (33, 21), "blue")] * 2,
        "duration": 50,
    }
    icc = zlib.compress(b"no profile")
    return [
        *(_saved(mode, "PNG") for mode in ("RGB", "RGBA", "LA", "P", "1", "I;16")),
        _saved("RGB", "PNG", pnginfo=words, exif=exif, icc_profile=icc, dpi=(72, 72)),
        _saved("P", "PNG", transparency=3),
        _saved("RGB", "PNG", **more),
        *(_saved(mode, "JPEG", quality=50) for mode in ("L", "RGB", "CMYK")),
        _saved(
            "RGB",
            "JPEG",
            progressive=True,
            exif=exif,
            icc_profile=icc,
            comment="x",
            dpi=(72, 72),
        ),
        _saved("RGB", "WEBP", quality=30, exif=exif),
        _saved("RGBA", "WEBP", lossless=True),
        _saved("RGB", "WEBP", **more),
        _saved("P", "GIF"),
        _saved("RGB", "GIF", **more, disposal=2, transparency=0, comment=b"x"),
        *(_saved(mode, "BMP") for mode in ("RGB", "P", "1", "RGBA")),
        *(_saved(mode, "TIFF") for mode in ("RGB", "RGBA", "CMYK", "LAB", "I", "F")),
        _saved("RGB", "TIFF", compression="jpeg"),
        _saved("RGB", "TIFF", **more),
        _saved("RGB", "AVIF", exif=exif, quality=50),
        _saved("RGB", "AVIF", **more),
        *(_saved("RGB", format) for format in ("ICO", "PPM", "PDF", "JPEG2000")),
    ]


ORIGINALS = _originals()
RESIZABLE = [
    content
    for content in ORIGINALS
    if content.startswith((b"\x89PNG", b"GIF8", b"\xff\xd8", b"BM"))
]
PNGS = [content for content in ORIGINALS if content.startswith(b"\x89PNG")]


def _damaged(
    originals: list[bytes], then: Callable[[bytes], bytes] = bytes
) -> st.SearchStrategy[bytes]:
    pairs = st.tuples(st.sampled_from(originals), st.sampled_from(ORIGINALS))
    return pairs.flatmap(lambda pair: damaged(*pair)).map(then)


CONTENTS = st.one_of(
    st.sampled_from(ORIGINALS),
    st.binary(max_size=50),
    _damaged(ORIGINALS),
    _damaged(ORIGINALS),
    _damaged(PNGS, with_checksums),
    _damaged(PNGS, with_checksums),
    st.sampled_from(RESIZABLE).flatmap(resized),
)
PREFIXES = st.sampled_from(
    [
        *[
            "",
            "",
            "data:image/png;base64,",
            "data:;base64,",
            "data:text/html;charset=x;base64,",
            "data:image/png,",
        ],
        *[
            "data:image/svg+xml;utf8,",
            "base64,base64,",
            "data:base64",
            " ",
            "https:/",
            "file://",
            "DATA:base64,",
        ],
    ]
)


def _spoilt(prefix: str, text: str, end: str, cut: int) -> str:
    return (prefix + text[: len(text) - cut] + end)[:100_000]


REFERENCES = st.one_of(
    CONTENTS.map(lambda content: base64.b64encode(content).decode()),
    CONTENTS.map(lambda content: base64.b64encode(content).decode()),
    st.builds(
        _spoilt,
        PREFIXES,
        CONTENTS.map(lambda content: base64.b64encode(content).decode()),
        st.sampled_from(["", "", "=", "\n", "é", "-_", ".png", "=.gif"]),
        st.integers(0, 3),
    ),
    st.builds(_spoilt, PREFIXES, TEXT, TEXT, st.just(0)),
)


def _job(references: list[str], normalize: bool = False) -> dict[str, Any]:
    controls = [
        {"path": "rgb.safetensors", "images": [reference], "normalize": normalize}
        for reference in references
    ]
    return {"id": "job", "input": {**SMALLEST, "controls": controls}}


@share(0.18)
@given(st.lists(REFERENCES, min_size=1, max_size=2), st.booleans())
def test_pictures_are_used_or_the_place_of_one_is_named(
    service: Service, references: list[str], normalize: bool
) -> None:
    answer = service.send("pictures", _job(references, normalize))
    if answer.get("code") == "INVALID_REQUEST":
        assert re.fullmatch(r"controls\.[01]\.images\.0", answer["field"])
    else:
        assert answer.get("code") in (None, "ASSET_UNAVAILABLE")


BOMBS = {
    "scans": lambda: repeated_scans(2000, 2000),
    "scans of a small picture": lambda: repeated_scans(16, 100_000),
    "webp": lambda: blank(7000, "WEBP", lossless=True, quality=0, method=0),
    "png": lambda: blank(9000, "PNG"),
    "tiff": lambda: blank(7000, "TIFF", compression="tiff_lzw"),
    "gif": lambda: blank(7000, "GIF"),
    "avif": lambda: blank(5000, "AVIF", speed=10),
    "frames": lambda: blank(
        64,
        "WEBP",
        save_all=True,
        append_images=[Image.effect_noise((64, 64), 9) for _ in range(2000)],
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_small_files_of_large_pictures_end_soon_and_take_little(
    service: Service, name: str
) -> None:
    reference = base64.b64encode(BOMBS[name]()).decode()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    answer = service.send("bombs", _job([reference] * 4))
    assert time.monotonic() - start < 60
    assert answer.get("code") in (None, "INVALID_REQUEST")
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 300_000  # KiB; the pixels of all four are up to 600 MB


MANY = {
    "tiny": (ORIGINALS[0], 693),
    "one megapixel": (blank(1000, "PNG", "1"), 1_000_000),
    "nine megapixels": (blank(3000, "PNG", "1"), 9_000_000),
    "49 megapixels": (blank(7000, "PNG", "1"), 49_000_000),
    "two megabytes": (blank(16, "BMP") + bytes(2_000_000), 256),
    "too large": (blank(9000, "PNG", "1"), 0),
    "damaged": (blank(64, "PNG")[:-30], 0),
}
"""Small files with their pixels, 0 for those that no job may bring."""
MOST_PICTURES, MOST_PIXELS, MOST_BYTES = 128, 500_000_000, 200_000_000


@st.composite
def many_pictures(draw: st.DrawFn) -> list[list[str]]:
    """Draw the names of each control's pictures."""
    usual = st.sampled_from(["tiny", "one megapixel", "nine megapixels"])
    name = st.one_of(usual, usual, usual, st.sampled_from(list(MANY)))
    count = st.sampled_from([1, 3, 12, 32])
    pairs = draw(st.lists(st.tuples(name, name, count), min_size=1, max_size=4))
    return [[first] * (count - 1) + [last] for first, last, count in pairs]


@share(0.003)
@given(many_pictures())
def test_the_pictures_of_one_job_have_limits_in_all(
    service: Service, controls: list[list[str]]
) -> None:
    encoded = {name: base64.b64encode(MANY[name][0]).decode() for name in MANY}
    rows = [
        {
            "path": "rgb.safetensors",
            "images": [encoded[name] for name in names],
            "frame_indices": list(range(len(names))),
        }
        for names in controls
    ]
    job = {**SMALLEST, "num_frames": 32, "motion_module": "shapeworld_v2"}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    answer = service.prepare(
        "many pictures", {"id": "job", "input": {**job, "controls": rows}}
    )
    assert time.monotonic() - start < 60
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 600_000  # KiB; the pixels of all are up to 18 GB
    assert (answer == {}) == _fits([MANY[name] for row in controls for name in row])


def _fits(pictures: list[tuple[bytes, int]]) -> bool:
    return (
        len(pictures) <= MOST_PICTURES
        and all(pixels for _, pixels in pictures)
        and sum(pixels for _, pixels in pictures) <= MOST_PIXELS
        and sum(len(content) for content, _ in pictures) <= MOST_BYTES
    )


def test_a_normal_job_still_gives_the_same_frames(service: Service) -> None:
    service.check_frames()
