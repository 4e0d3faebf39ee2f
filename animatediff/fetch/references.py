"""The grammar of references: how a job names a weight file or a picture.

A weight file is one of

    a published file's name     v3_sd15_mm.ckpt (``catalog.PUBLISHED_FILES``)
    a path in the models folder loras/style.safetensors
    a file on the hub           hf://owner/repo/folder/file.safetensors@revision
    an https URL                https://example.org/style.safetensors

A URL need not end in a file's name: its content says what it is. A link to a file on
the hub's web site is read as a file on the hub.

Or, for a motion module, it is a name of ``catalog.MOTION_MODULES``. Each may end in
``#sha256=`` and 64 hex digits: then the content must have that hash.

A picture is an https URL, base64 (bare or a data: URI), or a path below the input
folder.
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from .. import catalog
from ..errors import InvalidRequest, shorten
from .hub import HubFile
from .rules import shown_url

WEIGHT_FILE_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
PICTURE_SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".avif",
)
_HUB = re.compile(
    r"hf://(?P<repo>[\w.-]+/[\w.-]+)/(?P<path>[^@#]+?)(?:@(?P<revision>[\w./-]+))?"
)
_HUB_SITES = ("huggingface.co", "www.huggingface.co", "hf.co")
_HUB_PAGE = re.compile(
    r"/(?P<repo>[\w.-]+/[\w.-]+)/(?:blob|resolve|raw)/(?P<revision>[^/]+)/(?P<path>.+)"
)
_OTHER_KINDS = (
    *(".txt", ".md", ".pdf", ".htm", ".html", ".json", ".yaml", ".yml", ".csv"),
    *(".zip", ".rar", ".7z", ".tar", ".gz", ".gguf", ".onnx", ".mp4", ".webm"),
    *PICTURE_SUFFIXES,
)
"""Suffixes of URLs that lead to no weight file for sure."""
_SHA256 = re.compile(r"(?P<reference>.*)#sha256=(?P<sha256>[0-9a-fA-F]{64})", re.DOTALL)
_WEIGHT_FILES = (
    "a path below the models folder, the name of a published file,"
    " or hf://owner/repo/file@revision, that ends in"
    f" {', '.join(WEIGHT_FILE_SUFFIXES)}; or an https URL"
)
_DATA_URI = re.compile(r"\s*(?:data:(?P<type>[^,]*)|base64),", re.I)
_URL_ALPHABET = bytes.maketrans(b"-_", b"+/")
_PICTURES = (
    "an https URL, base64, or a path below the input folder"
    f" ({', '.join(PICTURE_SUFFIXES)})"
)


@dataclass(frozen=True)
class CatalogModule:
    """A motion module by its name in ``catalog.MOTION_MODULES``."""

    name: str


@dataclass(frozen=True)
class LocalFile:
    """A path on this machine, as the job wrote it, or a published file's name."""

    path: str

    @property
    def filename(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name


@dataclass(frozen=True)
class WebFile:
    """A file at an https URL."""

    url: str

    @property
    def shown(self) -> str:
        """The URL without its query."""
        return shown_url(self.url)

    @property
    def suffix(self) -> str:
        """The suffix of the URL's path, if it is a weight file's; else empty."""
        suffix = PurePosixPath(urlsplit(self.url).path).suffix.lower()
        return suffix if suffix in WEIGHT_FILE_SUFFIXES else ""


Place = CatalogModule | LocalFile | WebFile | HubFile


@dataclass(frozen=True)
class WeightReference:
    """A parsed reference to a weight file. ``text`` is what the job wrote."""

    text: str
    place: Place
    sha256: str | None = None

    @property
    def name(self) -> str:
        """The job's name for the file, without the query of a URL."""
        return shown_url(self.text) if is_url(self.text) else self.text


def parse_weight_reference(text: str, field: str) -> WeightReference:
    """Parse a reference. Raises InvalidRequest for ``field`` if it is none."""
    match = _SHA256.fullmatch(text)
    if match:
        place = _place(match["reference"], field)
        return WeightReference(text, place, match["sha256"].lower())
    return WeightReference(text, _place(text, field))


def _place(plain: str, field: str) -> Place:
    is_module = field == "motion_module"
    if is_module and plain in catalog.MOTION_MODULES:
        return CatalogModule(plain)
    names = f"{', '.join(catalog.MOTION_MODULES)}; " if is_module else ""
    allowed = f"{names}{_WEIGHT_FILES}"
    if match := _HUB.fullmatch(plain):
        return _hub_file(match.groupdict(), InvalidRequest(field, plain, allowed))
    if "://" in plain:
        refusal = InvalidRequest(field, shorten(plain.partition("?")[0]), allowed)
        return _web_place(plain, refusal)
    _check_suffix(plain, InvalidRequest(field, plain, allowed))
    return LocalFile(plain)


def _hub_file(parts: Mapping[str, str | None], refusal: InvalidRequest) -> HubFile:
    """Return a file on the hub. Its parts become paths in the cache."""
    path, revision = parts["path"] or "", parts["revision"]
    _check_suffix(path, refusal)
    for name in (parts["repo"] or "", path, revision or "main"):
        steps = name.split("/")
        if not name.isprintable() or "\\" in name or {"", ".", ".."} & set(steps):
            raise refusal
    return HubFile(parts["repo"] or "", path, revision)


def _web_place(url: str, refusal: InvalidRequest) -> WebFile | HubFile:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:  # a malformed host
        raise refusal from None
    if not is_url(url) or PurePosixPath(parts.path).suffix.lower() in _OTHER_KINDS:
        raise refusal
    match = _HUB_PAGE.fullmatch(parts.path) if host in _HUB_SITES else None
    if match is None or match["repo"].startswith(("datasets/", "spaces/")):
        return WebFile(url)
    names = {name: unquote(text) for name, text in match.groupdict().items()}
    return _hub_file(names, refusal)


def _check_suffix(path: str, refusal: InvalidRequest) -> None:
    if PurePosixPath(path).suffix.lower() not in WEIGHT_FILE_SUFFIXES:
        raise refusal


def is_url(reference: str) -> bool:
    """Whether ``reference`` is an https URL."""
    return reference.startswith("https://")


def is_picture_path(reference: str) -> bool:
    """Whether a picture's ``reference`` is a path, and neither base64 nor a URL."""
    is_data = reference[:100].lstrip().lower().startswith("data:")
    is_other = is_data or "://" in reference[:100]
    return reference.lower().endswith(PICTURE_SUFFIXES) and not is_other


def decode_picture(text: str, field: str) -> bytes:
    """Decode base64, bare or in a data: URI, or the bytes of a plain data: URI.

    The base64 may have line breaks, lack its padding, and use the alphabet of URLs.
    Raises InvalidRequest for ``field`` if it is none of these.
    """
    try:
        header = _DATA_URI.match(text)
        if header is None:
            return _decode_base64(text)
        body = text[header.end() :]
        kind = header["type"]
        if kind is not None and not kind.rstrip().lower().endswith(";base64"):
            return unquote_to_bytes(body)
        return _decode_base64(unquote(body) if "%" in body else body)
    except ValueError:
        raise InvalidRequest(field, shorten(text, 40), _PICTURES) from None


def _decode_base64(text: str) -> bytes:
    """Raise ValueError if it is none."""
    joined = "".join(line.strip() for line in text.splitlines())
    plain = joined.encode("ascii").translate(_URL_ALPHABET).rstrip(b"=")
    if not plain:
        raise ValueError("nothing is there")
    return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
