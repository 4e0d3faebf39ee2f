"""Lists of training files and their captions: a folder, or a table of one file a row.

Only the position of each row is kept of a table, 8 bytes a row, so that ten million
rows fit into memory.
"""

import csv
import json
from abc import ABC, abstractmethod
from array import array
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from ..errors import AssetError, ConfigurationError, shorten

VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".avi", ".m4v", ".gif")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
CAPTION_SUFFIXES = (".txt", ".caption")
_BYTE_ORDER_MARK = "\ufeff"
_FILE_COLUMNS = ("path", "file", "file_name", "video")
_CAPTION_COLUMNS = ("caption", "text", "name")
_ALLOWED = (
    f"a column {' or '.join(_FILE_COLUMNS)} and a column caption or text, or WebVid's"
    " videoid, name, page_dir"
)
Row = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A file. ``name`` is its path below the root.

    ``caption`` is None if it has none; ``trouble`` then says why.
    """

    name: str
    path: Path
    caption: str | None
    trouble: str = ""


class Listing(Protocol):
    """A sequence of files."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Entry:
        """File ``index``."""
        ...


def open_listing(
    root: Path, manifest: Path | None, suffixes: tuple[str, ...]
) -> Listing:
    """The files below ``root`` with one of ``suffixes``, or those in ``manifest``.

    Raises ConfigurationError if the folder or the table does not exist or is empty, or
    if a row has no file or no caption.
    """
    if not root.is_dir():
        raise ConfigurationError(f"root: there is no folder {root}")
    listing = _open_table(root, manifest) if manifest else _Folder(root, suffixes)
    if not len(listing):
        key, place = ("manifest", manifest) if manifest else ("root", root)
        raise ConfigurationError(f"{key}: {place} contains no files")
    return listing


class _Folder:
    """Captions are in files of the same name that end in .txt or .caption.

    A file with both takes the .txt.
    """

    def __init__(self, root: Path, suffixes: tuple[str, ...]) -> None:
        self.root = root
        files = (path for path in root.rglob("*") if path.suffix.lower() in suffixes)
        self.names = sorted(
            path.relative_to(root).as_posix() for path in files if path.is_file()
        )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Entry:
        name = self.names[index]
        path = self.root / name
        texts = [path.with_suffix(suffix) for suffix in CAPTION_SUFFIXES]
        text = next((text for text in texts if text.is_file()), None)
        if text is None:
            names = " or ".join(text.name for text in texts)
            return Entry(name, path, None, f"there is no caption in {names}")
        try:
            return Entry(name, path, _one_line(text.read_text(encoding="utf-8")))
        except OSError as error:
            return Entry(name, path, None, f"{text.name}: {error.strerror}")
        except UnicodeDecodeError:
            return Entry(name, path, None, f"{text.name} is not UTF-8")


def _open_table(root: Path, manifest: Path) -> "_Table":
    kind = _TABLES.get(manifest.suffix.lower())
    if kind is None:
        raise ConfigurationError(
            f"manifest: got {manifest.name}, allowed: a {' or '.join(_TABLES)} file"
        )
    return kind(root, manifest)


class _Table(ABC):
    """A file with one row per clip or picture. Files are below ``root``."""

    def __init__(self, root: Path, manifest: Path) -> None:
        self.root, self.manifest = root, manifest
        self.places = array("q")
        try:
            self._index()
        except OSError as error:
            raise ConfigurationError(
                f"manifest: {manifest} cannot be read: {error.strerror}"
            ) from error
        except UnicodeDecodeError as error:
            raise ConfigurationError(
                f"manifest: {manifest.name} is not UTF-8"
            ) from error

    def _index(self) -> None:
        with self.manifest.open("rb") as file:
            for number, (place, row) in enumerate(self.rows(file), start=1):
                self._parse(row, number)
                self.places.append(place)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Entry:
        try:
            with self.manifest.open("rb") as file:
                file.seek(self.places[index])
                _, row = next(self.rows(file))
        except OSError as error:
            raise AssetError(
                f"{self.manifest.name}: cannot be read: {error.strerror}"
            ) from error
        name, caption = self._parse(row, index + 1)
        return Entry(name, _locate(self.root, row, name), caption)

    def _parse(self, row: Row, number: int) -> tuple[str, str]:
        name, caption = _file_of(row), _caption_of(row)
        if name is None or not isinstance(caption, str):
            raise ConfigurationError(
                f"manifest: {self.manifest.name}, row {number}: got"
                f" {', '.join(row) or 'nothing'}, allowed: {_ALLOWED}"
            )
        return name, _one_line(caption)

    @abstractmethod
    def rows(self, file: BinaryIO) -> Iterator[tuple[int, Row]]:
        """Each row from the position of ``file``, with the place where it begins."""


class _Csv(_Table):
    """Comma-separated values with a header."""

    header: tuple[str, ...] = ()

    def rows(self, file: BinaryIO) -> Iterator[tuple[int, Row]]:
        place = file.tell()
        rows = csv.reader(_lines(file), strict=True)
        with self._readable(rows):
            if not place:
                self.header = _header(rows)
                place = file.tell()
            for values in rows:
                if values:
                    yield place, self._row(values, rows.line_num)
                place = file.tell()

    def _row(self, values: list[str], line: int) -> Row:
        """Refuse a row that would lose the text behind a comma."""
        count = len(self.header)
        if any(value.strip() for value in values[count:]):
            raise ConfigurationError(
                f"manifest: {self.manifest.name}, line {line}: got {len(values)} values"
                f" for {count} columns, allowed: a caption with a comma in quotes"
            )
        return dict(zip(self.header, values, strict=False))

    @contextmanager
    def _readable(self, rows: Any) -> Generator[None]:
        try:
            yield
        except csv.Error as error:
            raise ConfigurationError(
                f"manifest: {self.manifest.name}, line {rows.line_num}: {error}"
            ) from error


class _JsonLines(_Table):
    """JSON objects, one per line."""

    def rows(self, file: BinaryIO) -> Iterator[tuple[int, Row]]:
        place = file.tell()
        for line in _lines(file):
            if line.strip():
                yield place, self._object(line)
            place = file.tell()

    def _object(self, line: str) -> Row:
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigurationError(
                f"manifest: {self.manifest.name}: not JSON: {shorten(line)}"
            ) from error
        if not isinstance(row, dict):
            raise ConfigurationError(
                f"manifest: {self.manifest.name}: not a JSON object: {shorten(line)}"
            )
        return cast("Row", row)


_TABLES: dict[str, type[_Table]] = {".csv": _Csv, ".jsonl": _JsonLines}


def _lines(file: BinaryIO) -> Iterator[str]:
    for line in iter(file.readline, b""):
        is_first = file.tell() == len(line)
        yield line.decode("utf-8-sig" if is_first else "utf-8")


def _one_line(caption: str) -> str:
    """A caption without line ends and byte order marks."""
    return " ".join(caption.replace(_BYTE_ORDER_MARK, "").split())


def _header(rows: Iterator[list[str]]) -> tuple[str, ...]:
    return tuple(column.strip() for column in next(rows, ()))


def _file_of(row: Row) -> str | None:
    for column in _FILE_COLUMNS:
        if row.get(column):
            return str(row[column])
    if row.get("videoid"):
        return f"{row['videoid']}.mp4"
    return None


def _caption_of(row: Row) -> Any:
    for column in _CAPTION_COLUMNS:
        if row.get(column) is not None:
            return row[column]
    return None


def _locate(root: Path, row: Row, name: str) -> Path:
    """The path of a file. WebVid's own script puts files into ``page_dir``."""
    if "videoid" in row and row.get("page_dir"):
        path = root / row["page_dir"] / name
        if path.is_file():
            return path
    return root / name
