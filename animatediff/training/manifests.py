"""Which files there are and what their captions say: a folder, or a table of one line a
file.

Of a table only the places of its lines are kept, 8 bytes a row, so that ten million
rows fit.
"""

import csv
import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from ..errors import AssetError, ConfigurationError, shorten

VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".avi", ".m4v", ".gif")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_FILE_COLUMNS = ("path", "file", "file_name", "video")
_CAPTION_COLUMNS = ("caption", "text", "name")
_ALLOWED = f"a column {' or '.join(_FILE_COLUMNS)} and a column caption or text, or WebVid's videoid, name, page_dir"


@dataclass(frozen=True)
class Entry:
    """``name`` is the file's path below the root, as reports show it. ``caption`` None:
    there is none to be had.
    """

    name: str
    path: Path
    caption: str | None


class Listing(Protocol):
    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Entry: ...


def open_listing(
    root: Path, manifest: Path | None, suffixes: tuple[str, ...]
) -> Listing:
    """The files below ``root``: all with a suffix of ``suffixes``, or those that
    ``manifest`` (.csv, .jsonl) names.

    Raises ConfigurationError: no such folder or table, nothing in it, or a line without
    a file or a caption.
    """
    if not root.is_dir():
        raise ConfigurationError(f"root: there is no folder {root}")
    listing = _Table(root, manifest) if manifest else _Folder(root, suffixes)
    if not len(listing):
        raise ConfigurationError(
            f"{'manifest' if manifest else 'root'}: nothing is in {manifest or root}"
        )
    return listing


class _Folder:
    """Captions are in files of the same name that end in .txt."""

    def __init__(self, root: Path, suffixes: tuple[str, ...]) -> None:
        self.root = root
        self.names = sorted(
            path.relative_to(root).as_posix()
            for path in root.rglob("*")
            if path.suffix.lower() in suffixes and path.is_file()
        )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Entry:
        name = self.names[index]
        path = self.root / name
        try:
            caption = path.with_suffix(".txt").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return Entry(name, path, None)
        return Entry(name, path, " ".join(caption.split()))


class _Table:
    """CSV with a header, or JSON objects, one a line. Files are below ``root``;
    WebVid's are ``videoid``.mp4 there.
    """

    def __init__(self, root: Path, manifest: Path) -> None:
        if manifest.suffix.lower() not in (".csv", ".jsonl"):
            raise ConfigurationError(
                f"manifest: got {manifest.name}, allowed: a .csv or .jsonl file"
            )
        self.root, self.manifest = root, manifest
        self.header: list[str] | None = None
        self.places = array("q")
        try:
            with manifest.open("rb") as file:
                for number, (place, row) in enumerate(self._rows(file), start=1):
                    self._parse(row, f"{manifest.name}, row {number}")
                    self.places.append(place)
        except OSError as error:
            raise ConfigurationError(
                f"manifest: {manifest} cannot be read: {error.strerror}"
            ) from error
        except UnicodeDecodeError as error:
            raise ConfigurationError(
                f"manifest: {manifest.name} is not UTF-8"
            ) from error

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Entry:
        try:
            with self.manifest.open("rb") as file:
                file.seek(self.places[index])
                _, row = next(self._rows(file))
        except OSError as error:
            raise AssetError(
                f"{self.manifest.name}: cannot be read: {error.strerror}"
            ) from error
        name, caption = self._parse(row, f"{self.manifest.name}, row {index + 1}")
        path = self.root / name
        if (
            "videoid" in row
            and row.get("page_dir")
            and (self.root / row["page_dir"] / name).is_file()
        ):
            path = (
                self.root / row["page_dir"] / name
            )  # as WebVid's own script lays its files out
        return Entry(name, path, caption)

    def _rows(self, file: BinaryIO) -> Iterator[tuple[int, dict[str, Any]]]:
        """Each row from where ``file`` stands, with the place where it begins. The
        header is read at the start.
        """
        place = file.tell()

        def lines() -> Iterator[str]:
            for line in iter(file.readline, b""):
                yield line.decode("utf-8-sig" if file.tell() == len(line) else "utf-8")

        if self.manifest.suffix.lower() == ".csv":
            rows = csv.reader(lines(), strict=True)
            if not place:
                self.header = [column.strip() for column in next(rows, [])]
                place = file.tell()
            try:
                for values in rows:
                    if values:
                        yield place, dict(zip(self.header or [], values, strict=False))
                    place = file.tell()
            except csv.Error as error:
                raise ConfigurationError(
                    f"manifest: {self.manifest.name}, line {rows.line_num}: {error}"
                ) from error
            return
        for line in lines():
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise ConfigurationError(
                        f"manifest: {self.manifest.name}: no JSON: {shorten(line)}"
                    ) from error
                if not isinstance(row, dict):
                    raise ConfigurationError(
                        f"manifest: {self.manifest.name}: no JSON object:"
                        f" {shorten(line)}"
                    )
                yield place, row
            place = file.tell()

    def _parse(self, row: dict[str, Any], where: str) -> tuple[str, str]:
        file = next(
            (str(row[column]) for column in _FILE_COLUMNS if row.get(column)), None
        )
        if file is None and row.get("videoid"):
            file = f"{row['videoid']}.mp4"
        caption = next(
            (row[column] for column in _CAPTION_COLUMNS if row.get(column) is not None),
            None,
        )
        if file is None or not isinstance(caption, str):
            raise ConfigurationError(
                f"manifest: {where}: got {', '.join(row) or 'nothing'}, allowed:"
                f" {_ALLOWED}"
            )
        return file, " ".join(caption.split())
