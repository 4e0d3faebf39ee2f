"""Fill in what files.json does not know yet, from the hub: make pin.

A row that has a revision keeps it; a row without one gets the newest commit of the main
branch. The hub knows the hashes of large files; small files, which it keeps in git, are
downloaded and hashed. If the hub contradicts a row, that is an error and nothing is
written, unless --update is set.
"""

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from animatediff.catalog.files import (
    FILES,
    FileTable,
    FileTableError,
    PublishedFile,
    read_files,
    write_files,
)
from animatediff.errors import AssetError
from animatediff.fetch.hub import HubFile, Repository, download, repository
from animatediff.fetch.profiles import show


class PinError(Exception):
    """The hub has no such file, or contradicts the table."""


@dataclass
class Hub:
    """Looks rows up, and asks for each repository at each revision once."""

    _repositories: dict[tuple[str, str | None], Repository] = field(
        default_factory=dict
    )

    def look_up(self, row: PublishedFile, revision: str | None) -> PublishedFile:
        """Return ``row`` as the hub has it. Raises PinError, AssetError."""
        listing = self._repository(row.repo, revision)
        if row.file not in listing.files:
            raise PinError(
                f"{row.name}: the repository has no such file at {listing.commit}"
            )
        size, sha256 = listing.files[row.file]
        if sha256 is None:
            size, sha256 = _measure(HubFile(row.repo, row.file, listing.commit))
        return replace(
            row, revision=listing.commit, bytes=size, sha256=sha256, about=None
        )

    def _repository(self, repo: str, revision: str | None) -> Repository:
        key = (repo, revision)
        if key not in self._repositories:
            self._repositories[key] = repository(repo, revision)
        return self._repositories[key]


def _measure(file: HubFile) -> tuple[int, str]:
    with tempfile.TemporaryDirectory() as folder:
        content = download(file, folder=Path(folder)).read_bytes()
    return len(content), hashlib.sha256(content).hexdigest()


def pinned(row: PublishedFile, update: bool, hub: Hub) -> PublishedFile:
    """Return ``row`` pinned. Raises PinError, AssetError."""
    answer = hub.look_up(row, None if update else row.revision)
    for name in () if update else ("sha256", "bytes"):
        value = getattr(row, name)
        if value not in (None, getattr(answer, name)):
            raise PinError(
                f"{row.name}: {name} is {value} in the table,"
                f" {getattr(answer, name)} on the hub"
            )
    return answer


def pin_all(table: FileTable, update: bool) -> tuple[FileTable, list[str]]:
    """Return the table with all rows pinned that can be, and a text a failed row."""
    hub = Hub()
    rows: list[PublishedFile] = []
    problems: list[str] = []
    for row in table.rows:
        try:
            rows.append(pinned(row, update, hub))
        except (PinError, AssetError, OSError) as error:
            problems.append(f"{row.name}: {error}")
            rows.append(row)
    return FileTable(table.profiles, tuple(rows)), problems


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 if the table was written."""
    parser = argparse.ArgumentParser(
        prog="python -m builder.pin", description="Pin the published files."
    )
    parser.add_argument("--files", type=Path, default=FILES)
    parser.add_argument(
        "--update",
        action="store_true",
        help="take the newest commit of the main branch for every row",
    )
    options = parser.parse_args(arguments)
    try:
        before = read_files(options.files)
    except (FileTableError, OSError) as error:
        show(str(error))
        return 2
    after, problems = pin_all(before, options.update)
    for problem in problems:
        show(f"FAILED {problem}")
    if problems:
        show(f"{options.files.name} was left as it is")
        return 1
    write_files(after, options.files)
    show(f"{_show_changes(before, after)} of {len(after.rows)} rows changed")
    return 0


def _show_changes(before: FileTable, after: FileTable) -> int:
    changed = set(after.rows) - set(before.rows)
    for row in after.rows:
        if row in changed:
            show(
                f"pinned {row.name}: {row.revision}, {row.bytes} bytes,"
                f" sha256 {row.sha256}"
            )
    return len(changed)


if __name__ == "__main__":
    sys.exit(main())
