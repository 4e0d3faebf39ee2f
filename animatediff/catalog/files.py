"""The published weight files: where they come from, where they go, what they must be.

``files.json`` has one row a file. Jobs name files by it, ``animatediff fetch`` and the
image take their profiles from it, and ``make pin`` fills in what it does not know yet.
This module needs only the standard library, because the image's first stages read it.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any, cast

from ..atomic import written_whole

FILES = Path(__file__).with_name("files.json")
_REPO = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class FileTableError(ValueError):
    """The table of files is damaged, or has no such profile."""


@dataclass(frozen=True)
class PublishedFile:
    """A weight file of a repository on the Hugging Face hub.

    ``target`` is its place below the models folder; ``also`` is the folder that users
    of the published code keep it in. ``revision`` is a commit. ``revision``, ``sha256``
    and ``bytes`` are None until somebody pins them; ``about`` estimates the size of a
    file whose ``bytes`` are unknown: its architecture in float32, without the header.
    """

    profiles: tuple[str, ...]
    repo: str
    revision: str | None
    file: str
    target: str
    also: str | None
    sha256: str | None
    bytes: int | None
    about: int | None

    @property
    def pinned(self) -> bool:
        """Whether revision, hash and size are known."""
        return None not in (self.revision, self.sha256, self.bytes)

    @property
    def name(self) -> str:
        """Repository and file."""
        return f"{self.repo}/{self.file}"

    @property
    def size(self) -> int | None:
        """Bytes, or their estimate; None if neither is known."""
        return self.about if self.bytes is None else self.bytes

    @property
    def folders(self) -> tuple[str, ...]:
        """Folders below the models folder where the file may be, ours first."""
        folder = PurePosixPath(self.target).parent.as_posix()
        return (folder, self.also) if self.also else (folder,)


@dataclass(frozen=True)
class FileTable:
    """The rows of ``files.json``. ``profiles`` maps a profile's name to its title."""

    profiles: Mapping[str, str]
    rows: tuple[PublishedFile, ...]

    def of_profile(self, profile: str) -> tuple[PublishedFile, ...]:
        """Return the rows of ``profile``. Raises FileTableError for an unknown name."""
        if profile not in self.profiles:
            raise FileTableError(
                f"there is no profile {profile!r}, only {', '.join(self.profiles)}"
            )
        return tuple(row for row in self.rows if profile in row.profiles)

    def profile_with(self, place: str) -> str | None:
        """Return the first profile that puts something at or below ``place``.

        ``place`` is a path below the models folder. None if no profile does.
        """
        names = {
            name
            for row in self.rows
            if PurePosixPath(row.target).is_relative_to(place)
            for name in row.profiles
        }
        return next((name for name in self.profiles if name in names), None)


def read_files(path: Path = FILES) -> FileTable:
    """Read a table. Raises FileTableError that names the wrong row; OSError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        profiles, entries = content["profiles"], content["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise FileTableError(f"{path.name} is no table of files: {error!r}") from None
    rows = tuple(_row(entry, f"files[{i}]") for i, entry in enumerate(entries))
    for i, row in enumerate(rows):
        if not set(row.profiles) <= set(profiles):
            raise FileTableError(f"files[{i}]: {row.profiles}: not all are profiles")
    _check_targets(rows, path.name)
    return FileTable(profiles, rows)


def write_files(table: FileTable, path: Path) -> None:
    """Write a table, one line a row."""
    rows = ",\n".join(f"    {json.dumps(asdict(row))}" for row in table.rows)
    profiles = json.dumps(table.profiles, indent=4).replace("\n}", "\n  }")
    text = f'{{\n  "profiles": {profiles},\n  "files": [\n{rows}\n  ]\n}}\n'
    with written_whole(path) as part:
        part.write_text(text, encoding="utf-8")


def _check_targets(rows: Iterable[PublishedFile], name: str) -> None:
    seen: set[str] = set()
    for row in rows:
        if row.target in seen:
            raise FileTableError(f"{name}: two rows have the target {row.target}")
        seen.add(row.target)


def _row(entry: Any, place: str) -> PublishedFile:
    names = {field.name for field in fields(PublishedFile)}
    if not isinstance(entry, dict) or set(cast("dict[str, Any]", entry)) != names:
        raise FileTableError(
            f"{place} must have exactly the keys {', '.join(sorted(names))}"
        )
    values = cast("dict[str, Any]", entry)
    values["profiles"] = tuple(values["profiles"])
    row = PublishedFile(**values)
    for name, (is_valid, expected) in _rules(row).items():
        if not is_valid:
            raise FileTableError(f"{place}: {name} {values[name]!r}: {expected}")
    return row


def _rules(row: PublishedFile) -> dict[str, tuple[bool, str]]:
    return {
        "repo": (_REPO.fullmatch(row.repo) is not None, "not owner/name"),
        "target": (_is_below(row.target), "not a path below the models folder"),
        "also": (_is_below(row.also or ""), "not a path below the models folder"),
        "revision": (_fits(_COMMIT, row.revision), "neither null nor 40 hex digits"),
        "sha256": (_fits(_SHA256, row.sha256), "neither null nor 64 hex digits"),
        "bytes": (_is_size(row.bytes), "neither null nor a size"),
        "about": (_is_size(row.about), "neither null nor a size"),
    }


def _is_below(target: str) -> bool:
    path = PurePosixPath(target)
    return not path.is_absolute() and ".." not in path.parts


def _fits(pattern: re.Pattern[str], value: object) -> bool:
    if value is None:
        return True
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_size(value: object) -> bool:
    return value is None or isinstance(value, int)


TABLE = read_files()
PUBLISHED_FILES: Mapping[str, PublishedFile] = {
    row.file: row for row in TABLE.rows if "/" not in row.file
}
"""The files that a job may name by their name alone; parts of a model's folder have
none of their own."""
