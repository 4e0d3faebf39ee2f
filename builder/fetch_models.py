"""Fetch a profile's weights from the Hugging Face hub: python -m builder.fetch_models
--profile sd15-v3

Files are checked by size and sha256 before they get their place; what is there already
and right is left alone, so a run that was cut off goes on where it was. The hub's own
library makes the requests: HF_ENDPOINT, HF_TOKEN and HF_TOKEN_PATH count. Ends with 0
if all is there, 1 if something could not be had, 2 if it was not even tried.
"""

import argparse
import hashlib
import shutil
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from animatediff.atomic import written_whole

from .manifest import MANIFEST, ManifestError, Row, read_manifest

TOKEN_HINT = "a token that may read it is needed: HF_TOKEN, or --secret id=hf_token where an image is built"


class FetchError(Exception):
    """One file that could not be had, and why."""


@dataclass(frozen=True)
class Fetcher:
    """``cache`` holds downloads that are not in their place yet. With ``keep_cache`` it
    keeps a copy of each.
    """

    models_dir: Path
    cache: Path
    keep_cache: bool = False

    def is_here(self, row: Row) -> bool:
        """Whether the target is there with the right content. Another content is
        removed.
        """
        path = self.models_dir / row.target
        if not path.is_file():
            return False
        if not row.pinned:
            return True
        if wrong(row, path) is None:
            return True
        path.unlink()
        return False

    def fetch(self, row: Row, bar: tqdm) -> str:
        """Put ``row`` in its place; a line that says what was got. Raises FetchError,
        with nothing in its place.
        """
        folder = self.cache / row.repo / (row.revision or "main")
        path = _download(row, folder, bar)
        if reason := wrong(row, path):
            path.unlink()
            raise FetchError(f"{row.name}: {reason}; it was removed")
        target = self.models_dir / row.target
        with written_whole(target) as part:
            if self.keep_cache:
                shutil.copyfile(path, part)
            else:
                shutil.move(path, part)
        return f"{row.target}: {target.stat().st_size} bytes, {'checked' if row.pinned else 'NOT PINNED, not checked'}"


def wrong(row: Row, path: Path) -> str | None:
    """What about ``path`` is not as ``row`` says, or None."""
    size = path.stat().st_size
    if row.bytes is not None and size != row.bytes:
        return f"has {size} bytes, expected {row.bytes}"
    if row.sha256 is None:
        return None
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return (
        None
        if found == row.sha256
        else f"has the sha256 {found}, expected {row.sha256}"
    )


def _download(row: Row, folder: Path, bar: tqdm) -> Path:
    from httpx2 import HTTPError
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        XetDownloadError,
    )

    class Part(tqdm):
        """The library's bar of one file, counted into the one of them all."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "disable": True})
            bar.update(options.get("initial") or 0)

        def update(self, n: float | None = 1) -> None:
            bar.update(n)

    try:
        path = hf_hub_download(
            row.repo, row.file, revision=row.revision, local_dir=folder, tqdm_class=Part
        )
    except (HTTPError, XetDownloadError, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, LocalEntryNotFoundError) and error.__cause__:
            error = error.__cause__
        status = (
            error.response.status_code if isinstance(error, HfHubHTTPError) else None
        )
        hint = (
            f"; {TOKEN_HINT}"
            if status in (401, 403) or isinstance(error, GatedRepoError)
            else ""
        )
        said = (
            f"HTTP {status}"
            if status
            else f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        )
        raise FetchError(f"{row.name}: {said}{hint}") from None
    return Path(path)


def fetch_all(rows: Iterable[Row], fetcher: Fetcher, jobs: int) -> list[str]:
    """Fetch what is not here yet, several at once. What went wrong, one text a file."""
    rows = list(rows)
    wanted = [row for row in rows if not fetcher.is_here(row)]
    say(
        f"{len(rows) - len(wanted)} of {len(rows)} files are here, {len(wanted)} to"
        f" fetch"
    )
    failures: list[str] = []
    total = sum(row.bytes or 0 for row in wanted) or None
    with (
        tqdm(
            total=total,
            unit="B",
            unit_scale=True,
            desc="weights",
            mininterval=2,
            disable=not wanted,
        ) as bar,
        ThreadPoolExecutor(jobs) as pool,
    ):
        for done in as_completed(
            [pool.submit(fetcher.fetch, row, bar) for row in wanted]
        ):
            try:
                bar.write(done.result(), file=sys.stderr)
            except (FetchError, OSError) as error:
                failures.append(str(error))
    if not fetcher.keep_cache and not failures:
        shutil.rmtree(fetcher.cache, ignore_errors=True)
    return failures


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - a CLI


def listed(rows: Iterable[Row], fetcher: Fetcher) -> str:
    """A line for each of ``rows``, and their sum: what --dry-run prints."""
    rows = list(rows)
    lines = []
    for row in rows:
        size = "size unknown" if row.bytes is None else f"{row.bytes / 1e6:.1f} MB"
        pin = f"pinned at {(row.revision or '')[:12]}" if row.pinned else "NOT PINNED"
        here = ", here" if (fetcher.models_dir / row.target).is_file() else ""
        lines.append(f"{row.target}  <-  {row.name}  ({size}, {pin}{here})")
    total = sum(row.bytes or 0 for row in rows) / 1e9
    unknown = sum(row.bytes is None for row in rows)
    more = f" and {unknown} of unknown size" if unknown else ""
    return "\n".join([*lines, f"{len(rows)} files, {total:.2f} GB{more}"])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m builder.fetch_models", description="Fetch a profile's weights."
    )
    parser.add_argument(
        "--profile", default="shapeworld", help="which of the manifest's profiles"
    )
    parser.add_argument("--manifest", type=Path, default=MANIFEST)
    parser.add_argument("--models-dir", type=Path, default=Path("models"))
    parser.add_argument(
        "--cache",
        type=Path,
        help="keep a copy of every download here, for the next run",
    )
    parser.add_argument("--jobs", type=int, default=4, help="files at once")
    parser.add_argument(
        "--allow-unpinned",
        action="store_true",
        help="also what has no revision, sha256 and size",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say what would be fetched, ask for nothing",
    )
    options = parser.parse_args(arguments)
    try:
        rows = read_manifest(options.manifest).of_profile(options.profile)
    except (ManifestError, OSError) as error:
        say(str(error))
        return 2
    fetcher = Fetcher(
        options.models_dir,
        options.cache or options.models_dir / ".incoming",
        keep_cache=options.cache is not None,
    )
    if options.dry_run:
        say(listed(rows, fetcher))
        return 0
    unpinned = [row for row in rows if not row.pinned]
    if unpinned and not options.allow_unpinned:
        say("\n".join(f"not pinned: {row.name}" for row in unpinned))
        say(
            f"{len(unpinned)} files of profile {options.profile} have no revision,"
            f" sha256 or size in"
            f" {options.manifest.name}, so nobody could tell whether they are the"
            f" right ones: nothing was fetched."
            " `make pin` fills them in from the hub; --allow-unpinned"
            " (ALLOW_UNPINNED=1 in the image) takes them as"
            " they come."
        )
        return 2
    failures = fetch_all(rows, fetcher, max(1, options.jobs))
    for failure in failures:
        say(f"FAILED {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
