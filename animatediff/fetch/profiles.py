"""Put the weights of a profile into the models folder: ``animatediff fetch PROFILE``.

Size and sha256 of a file are checked before it gets its place. Files that are there
already and right are left alone, so a run that was cut off goes on where it stopped.
The image fetches its weights in the same way, with no more installed than the hub's
library and tqdm.
"""

import argparse
import hashlib
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..atomic import written_whole
from ..catalog.files import (
    FILES,
    FileTable,
    FileTableError,
    PublishedFile,
    read_files,
)
from ..errors import AssetError
from ..progress import Progress
from .hub import HubFile, download_watched
from .rules import DownloadRules

INCOMING = ".incoming"
"""Folder in the models folder for downloads that are not in their place yet."""
LIMITS = DownloadRules(
    cache_dir=Path(), max_bytes=2**63, max_seconds=6 * 3600, min_rate=10_000
)
"""A slow line is fast enough for these; a host that has died is not."""


class FetchError(Exception):
    """A downloaded file is not the file that the table describes."""


class FileBar:
    """Adds what one file reports to the bar of all files."""

    def __init__(self, bar: "tqdm[Any]") -> None:
        self._bar = bar
        self._done = 0

    def __call__(self, progress: Progress) -> None:
        """Take a report of the file's download."""
        self._bar.update(progress.step - self._done)
        self._done = progress.step


@dataclass(frozen=True)
class Fetcher:
    """Fetches files into ``models_dir``.

    Downloads go to ``cache`` first; with ``keep_cache`` a copy of each stays there.
    """

    models_dir: Path
    cache: Path
    keep_cache: bool = False

    def is_here(self, row: PublishedFile) -> bool:
        """Whether the file is in its place. Removes a file with the wrong content."""
        path = self.models_dir / row.target
        if not path.is_file():
            return False
        if row.pinned and difference(row, path):
            path.unlink()
            return False
        return True

    def fetch(self, row: PublishedFile, bar: "tqdm[Any]") -> str:
        """Put the file into its place and return a line about it.

        Raises FetchError or AssetError; nothing is in its place then.
        """
        folder = self.cache / row.repo / (row.revision or "main")
        file = HubFile(row.repo, row.file, row.revision)
        path = download_watched(file, LIMITS, folder=folder, report=FileBar(bar))
        if reason := difference(row, path):
            path.unlink()
            raise FetchError(f"{row.name}: {reason}; it was removed")
        target = self.models_dir / row.target
        with written_whole(target) as part:
            if self.keep_cache:
                shutil.copyfile(path, part)
            else:
                shutil.move(path, part)
        checked = "checked" if row.pinned else "NOT PINNED, not checked"
        return f"{row.target}: {target.stat().st_size} bytes, {checked}"


def difference(row: PublishedFile, path: Path) -> str | None:
    """Return how a file differs from its row, or None if it does not."""
    size = path.stat().st_size
    if row.bytes is not None and size != row.bytes:
        return f"has {size} bytes, expected {row.bytes}"
    if row.sha256 is None:
        return None
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest == row.sha256:
        return None
    return f"has the sha256 {digest}, expected {row.sha256}"


def fetch_all(
    rows: Sequence[PublishedFile], fetcher: Fetcher, jobs: int = 4
) -> list[str]:
    """Fetch the files that are not here yet, ``jobs`` at once.

    Returns a text for each file that could not be fetched.
    """
    missing = [row for row in rows if not fetcher.is_here(row)]
    here = len(rows) - len(missing)
    show(f"{here} of {len(rows)} files are here, {len(missing)} to fetch")
    with (
        tqdm(
            total=_bytes_of(missing) or None,
            unit="B",
            unit_scale=True,
            desc="weights",
            mininterval=2,
            disable=not missing,
        ) as bar,
        ThreadPoolExecutor(jobs) as pool,
    ):
        failures = _fetch_missing(missing, fetcher, bar, pool)
    if not fetcher.keep_cache and not failures:
        shutil.rmtree(fetcher.cache, ignore_errors=True)
    return failures


def _fetch_missing(
    rows: Sequence[PublishedFile],
    fetcher: Fetcher,
    bar: "tqdm[Any]",
    pool: ThreadPoolExecutor,
) -> list[str]:
    failures: list[str] = []
    for done in as_completed([pool.submit(fetcher.fetch, row, bar) for row in rows]):
        try:
            bar.write(done.result(), file=sys.stderr)
        except (FetchError, AssetError, OSError) as error:
            failures.append(str(error))
    return failures


def _bytes_of(rows: Sequence[PublishedFile]) -> int:
    return sum(row.size or 0 for row in rows)


def listed_profiles(table: FileTable) -> str:
    """Return a line a profile: its size and its title."""
    lines: list[str] = []
    for name, title in table.profiles.items():
        rows = table.of_profile(name)
        size = f"{_bytes_of(rows) / 1e9:.2f} GB"
        lines.append(f"{name:12} {len(rows):3} files, {size:>8}  {title}")
    return "\n".join(lines)


def listed_files(rows: Sequence[PublishedFile], models_dir: Path) -> str:
    """Return a line a file, and their sum: what ``--dry-run`` prints."""
    lines = [_listed_file(row, models_dir) for row in rows]
    unknown = sum(row.size is None for row in rows)
    rest = f" and {unknown} of unknown size" if unknown else ""
    total = f"{len(rows)} files, {_bytes_of(rows) / 1e9:.2f} GB{rest}"
    return "\n".join([*lines, total])


def _listed_file(row: PublishedFile, models_dir: Path) -> str:
    pin = f"pinned at {(row.revision or '')[:12]}" if row.pinned else "NOT PINNED"
    here = ", here" if (models_dir / row.target).is_file() else ""
    return f"{row.target}  <-  {row.name}  ({_listed_size(row)}, {pin}{here})"


def _listed_size(row: PublishedFile) -> str:
    if row.size is None:
        return "size unknown"
    about = "about " if row.bytes is None else ""
    return f"{about}{row.size / 1e6:.1f} MB"


def show(text: str) -> None:
    """Print to the standard error stream, where progress goes."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - a command's output


def make_parser(program: str = "animatediff fetch") -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog=program, description="Put a profile's weights into the models folder."
    )
    add = parser.add_argument
    add("profile", nargs="?", help="a name that --list shows")
    add("--list", action="store_true", help="list the profiles and their sizes")
    add(
        "--models-dir",
        type=Path,
        help="the models folder (default: the setting ANIMATEDIFF_MODELS_DIR)",
    )
    add("--cache", type=Path, help="keep a copy of every download in this folder")
    add("--jobs", type=int, default=4, help="files at once (default: 4)")
    add(
        "--allow-unpinned",
        action="store_true",
        help="also fetch files whose revision, sha256 or size is unknown",
    )
    add("--dry-run", action="store_true", help="list the files and fetch nothing")
    add("--files", type=Path, default=FILES, help=argparse.SUPPRESS)
    return parser


def main(
    arguments: Sequence[str] | None = None, program: str = "animatediff fetch"
) -> int:
    """Run the command.

    Returns 0 if every file is there, 1 if one could not be fetched, 2 if nothing was
    tried.
    """
    parser = make_parser(program)
    options = parser.parse_args(arguments)
    try:
        table = read_files(options.files)
        if options.list:
            show(listed_profiles(table))
            return 0
        if options.profile is None:
            parser.error("name a profile, or use --list")
        rows = table.of_profile(options.profile)
    except (FileTableError, OSError) as error:
        show(str(error))
        return 2
    models_dir = options.models_dir or _models_dir_of_settings()
    if options.dry_run:
        show(listed_files(rows, models_dir))
        return 0
    if not options.allow_unpinned and _refuse_unpinned(rows, options.profile):
        return 2
    cache = options.cache or models_dir / INCOMING
    fetcher = Fetcher(models_dir, cache, keep_cache=options.cache is not None)
    return _report(fetch_all(rows, fetcher, max(1, options.jobs)), rows, models_dir)


def _report(
    failures: Sequence[str], rows: Sequence[PublishedFile], models_dir: Path
) -> int:
    for failure in failures:
        show(f"FAILED {failure}")
    if not failures and rows:
        show(f"complete: {models_dir.absolute()}")
    return 1 if failures else 0


def _models_dir_of_settings() -> Path:
    from ..settings import Settings  # not in the image's first stages

    return Settings.from_env().models_dir


def _refuse_unpinned(rows: Sequence[PublishedFile], profile: str) -> bool:
    unpinned = [row for row in rows if not row.pinned]
    for row in unpinned:
        show(f"not pinned: {row.name}")
    if unpinned:
        show(
            f"nothing was fetched: {len(unpinned)} files of profile {profile} have no"
            " revision, sha256 or size yet, so their content cannot be checked."
            " `make pin` asks the hub for them; --allow-unpinned (ALLOW_UNPINNED=1 in"
            " the image) fetches them unchecked."
        )
    return bool(unpinned)
