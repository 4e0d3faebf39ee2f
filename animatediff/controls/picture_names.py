"""Names of file formats by the first bytes of a file, for messages."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
"""Pillow's names of the formats of pictures that a job may bring."""

_BEGINNINGS: tuple[tuple[str, tuple[bytes, ...]], ...] = (
    ("PNG", (b"\x89PNG",)),
    ("JPEG", (b"\xff\xd8\xff",)),
    ("GIF", (b"GIF8",)),
    ("TIFF", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    ("BMP", (b"BM",)),
    ("JPEG XL", (b"\xff\x0a", b"\0\0\0\x0cJXL ")),
    ("JPEG 2000", (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")),
    ("PSD", (b"8BPS",)),
    ("PDF", (b"%PDF",)),
    ("ICO", (b"\0\0\x01\0",)),
    ("zip", (b"PK\x03\x04",)),
    ("WebM or Matroska video", (b"\x1aE\xdf\xa3",)),
    ("Radiance HDR", (b"#?RADIANCE", b"#?RGBE")),
    ("OpenEXR", (b"v/1\x01",)),
    ("PPM", (b"P5\n", b"P6\n", b"P5 ", b"P6 ")),
)
_BRANDS: tuple[tuple[str, tuple[bytes, ...]], ...] = (  # ISO 14496-12, "ftyp"
    ("AVIF", (b"avif", b"avis")),
    ("HEIC", (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")),
    ("MP4 video", (b"isom", b"iso2", b"iso4", b"iso5", b"iso6", b"mp41", b"mp42")),
    ("MP4 video", (b"avc1", b"M4V ", b"qt  ", b"3gp4", b"3gp5", b"dash")),
)
_MARKUP = (("SVG", b"<svg"), ("HTML", b"<html"), ("HTML", b"<!doctype html"))


def name_of(content: bytes | bytearray) -> str | None:
    """Return the name of a file's format, None if it is not known here."""
    start = bytes(content[:1000])
    if start[4:8] == b"ftyp":  # the brand, and those that it is compatible with
        brands = start[8 : min(start[3], 64)]
        return next((name for name, known in _BRANDS if _has(brands, known)), None)
    if start[:4] == b"RIFF":
        return {b"WEBP": "WEBP", b"AVI ": "AVI video"}.get(start[8:12])
    text = start.lower()
    names = [name for name, begins in _BEGINNINGS if start.startswith(begins)]
    names += [name for name, tag in _MARKUP if tag in text]
    return names[0] if names else None


def _has(brands: bytes, known: tuple[bytes, ...]) -> bool:
    return any(brand in brands for brand in known)
