"""Damaged files: bytes are changed, removed, repeated or taken from another file."""

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

HEAD = 600
"""The number of bytes at either end of a file that hold most of its structure."""
SIZES = st.sampled_from([0, 1, 64, 4000, 7072, 65_535, 2**31 - 1, 2**32 - 1])
DTYPES = [
    "F16",
    "F32",
    "F64",
    "BF16",
    "I8",
    "U8",
    "I16",
    "U16",
    "I64",
    "U64",
    "BOOL",
    "F8_E4M3",
    "F8_E5M2",
    "F8_E8M0",
]
DTYPES += ["F4", "C64", "F128", ""]
SMALLER = {"F8_E4M3": 2, "F8_E8M0": 2, "BOOL": 2, "F4": 4}
"""How many values of a type take the space of one number in half precision."""


DAMAGES = ["flip", "flip", "flip", "cut", "remove", "repeat", "zeros", "splice"]


@st.composite
def damaged(draw: st.DrawFn, content: bytes, other: bytes) -> bytes:
    """Draw ``content`` with up to three kinds of damage.

    One kind inserts a piece of ``other``.
    """
    for _ in range(draw(st.integers(1, 3))):
        place = draw(_places(len(content)))
        length = draw(st.sampled_from([1, 4, 40, 1000]))
        end = place + length
        way = draw(st.sampled_from(DAMAGES))
        if way == "flip":
            mask = draw(st.integers(1, 255))
            content = (
                content[:place]
                + bytes(byte ^ mask for byte in content[place : place + 1])
                + content[place + 1 :]
            )
        elif way == "cut":
            content = content[:place]
        elif way == "remove":
            content = content[:place] + content[end:]
        elif way == "repeat":
            content = content[:end] + content[place:]
        elif way == "zeros":
            content = content[:place] + bytes(len(content[place:end])) + content[end:]
        else:
            start = draw(_places(len(other)))
            content = content[:place] + other[start : start + length] + content[place:]
    return content


def _places(length: int) -> st.SearchStrategy[int]:
    last = max(length - 1, 0)
    return (
        st.integers(0, min(HEAD, last))
        | st.integers(0, last)
        | st.integers(max(last - HEAD, 0), last)
    )


def with_checksums(png: bytes) -> bytes:
    """Return a PNG with the correct checksum in every chunk.

    Readers reject a chunk with a wrong checksum before they look at its content.
    """
    whole, place = [png[:8]], 8
    while place + 12 <= len(png):
        (length,) = struct.unpack_from(">I", png, place)
        body = png[place + 4 : place + 8 + length]
        whole.append(
            png[place : place + 4] + body + struct.pack(">I", zlib.crc32(body))
        )
        place += 12 + length
    return b"".join(whole)


@st.composite
def resized(draw: st.DrawFn, picture: bytes) -> bytes:
    """Draw a picture whose header claims another size."""
    width, height = draw(SIZES), draw(SIZES)
    if picture.startswith(b"\x89PNG"):
        return with_checksums(
            picture[:16] + struct.pack(">II", width, height) + picture[24:]
        )
    if picture.startswith(b"GIF8"):
        return (
            picture[:6]
            + struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
            + picture[10:]
        )
    if picture.startswith(b"BM"):
        return picture[:18] + struct.pack("<II", width, height) + picture[26:]
    frame = picture.find(b"\xff\xc0")  # JPEG
    return (
        picture[: frame + 5]
        + struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
        + picture[frame + 9 :]
    )


def _odd_entries(header: Mapping[str, Any], key: str) -> st.SearchStrategy[Any]:
    """Odd header entries for the tensor ``key``."""
    entry = header[key]
    shape = entry.get("shape", [])
    offsets = st.lists(st.integers(0, 2**40), min_size=2, max_size=2)
    return st.one_of(
        st.sampled_from(DTYPES).map(lambda dtype: {**entry, "dtype": dtype}),
        st.sampled_from(list(SMALLER)).map(
            lambda dtype: {**entry, "dtype": dtype, "shape": [SMALLER[dtype], *shape]}
        ),
        st.lists(st.integers(-1, 2**40), max_size=5).map(
            lambda shape: {**entry, "shape": shape}
        ),
        st.just({**entry, "shape": entry.get("shape", [1])[::-1]}),
        offsets.map(lambda places: {**entry, "data_offsets": places}),
        st.sampled_from([header[other] for other in sorted(header)]),
        st.none() | st.integers() | st.text(max_size=5) | st.just([]),
    )


@st.composite
def with_odd_header(draw: st.DrawFn, content: bytes) -> bytes:
    """Draw a safetensors file whose header is wrong about one or two tensors."""
    (length,) = struct.unpack_from("<Q", content)
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    for _ in range(draw(st.integers(1, 2))):
        key = draw(st.sampled_from(sorted(header)))
        header[key] = draw(_odd_entries(header, key))
        if not isinstance(header[key], dict):
            break
    text = json.dumps(header).encode()
    wrong_lengths = [len(text) - 1, len(text) + 1, 2**63]
    header_length = draw(st.sampled_from([len(text)] * 6 + wrong_lengths))
    return struct.pack("<Q", header_length) + text + data
