"""Fill in what manifest.json does not know, from the hub: python -m builder.pin (make
pin)

Revision, sha256 and size. A row that has a revision keeps it, one that has none gets
what the repository's main branch is now. Large files' hashes are the hub's own; small
ones, which it keeps in git, are downloaded and hashed. What the manifest knows and the
hub says otherwise is an error, and nothing is written, unless --update is given.
"""

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from .fetch_models import say
from .manifest import (
    MANIFEST,
    Manifest,
    ManifestError,
    Row,
    read_manifest,
    write_manifest,
)


class PinError(Exception):
    """The hub has no such file, or says something else than the manifest."""


def pinned(row: Row, update: bool, hub: "Hub") -> Row:
    """``row`` as the hub has it. Raises PinError; what the hub's library raises."""
    found = hub.look_up(row, None if update else row.revision)
    known = {"sha256": row.sha256, "bytes": row.bytes}
    for name, value in known.items():
        if not update and value is not None and value != getattr(found, name):
            raise PinError(
                f"{row.name}: {name} is {value} in the manifest,"
                f" {getattr(found, name)} on the hub"
            )
    return found


Files = Mapping[str, tuple[int | None, str | None]]
"""Size and sha256 of a repository's files, as far as the hub lists them."""


class Hub:
    """Asks for each repository at each revision once."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, str | None], tuple[str, Files]] = {}

    def look_up(self, row: Row, revision: str | None) -> Row:
        commit, files = self._repository(row.repo, revision)
        if row.file not in files:
            raise PinError(f"{row.name}: the repository has no such file at {commit}")
        size, sha256 = files[row.file]
        if sha256 is None:
            size, sha256 = self._measure(row, commit)
        return replace(row, revision=commit, bytes=size, sha256=sha256)

    def _repository(self, repo: str, revision: str | None) -> tuple[str, Files]:
        from huggingface_hub import HfApi

        key = (repo, revision)
        if key not in self._answers:
            info = HfApi().model_info(repo, revision=revision, files_metadata=True)
            if info.sha is None:
                raise PinError(f"{repo}: the hub names no commit")
            files = {
                file.rfilename: (file.lfs.size, file.lfs.sha256)
                if file.lfs
                else (file.size, None)
                for file in info.siblings or []
            }
            self._answers[key] = info.sha, files
        return self._answers[key]

    def _measure(self, row: Row, commit: str) -> tuple[int, str]:
        from huggingface_hub import hf_hub_download

        with tempfile.TemporaryDirectory() as folder:
            path = Path(
                hf_hub_download(row.repo, row.file, revision=commit, local_dir=folder)
            )
            return path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()


def pin_all(manifest: Manifest, update: bool) -> tuple[Manifest, list[str]]:
    """``manifest`` with every row pinned that could be, and what went wrong, one text a
    row.
    """
    from httpx2 import HTTPError

    hub = Hub()
    problems: list[str] = []

    def rows() -> Iterator[Row]:
        for row in manifest.rows:
            try:
                yield pinned(row, update, hub)
            except PinError as error:
                problems.append(str(error))
                yield row
            except (HTTPError, OSError, ValueError) as error:
                problems.append(
                    f"{row.name}: {type(error).__name__}:"
                    f" {str(error).strip().partition(chr(10))[0]}"
                )
                yield row

    return Manifest(manifest.profiles, tuple(rows())), problems


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m builder.pin", description="Pin the manifest's files."
    )
    parser.add_argument("--manifest", type=Path, default=MANIFEST)
    parser.add_argument(
        "--update",
        action="store_true",
        help="take the main branch's newest commit for every row",
    )
    options = parser.parse_args(arguments)
    try:
        before = read_manifest(options.manifest)
    except (ManifestError, OSError) as error:
        say(str(error))
        return 2
    after, problems = pin_all(before, options.update)
    for problem in problems:
        say(f"FAILED {problem}")
    if problems:
        say(f"{options.manifest.name} was left as it is")
        return 1
    changed = [
        new for old, new in zip(before.rows, after.rows, strict=True) if old != new
    ]
    for row in changed:
        say(
            f"pinned {row.name}: {row.revision}, {row.bytes} bytes, sha256 {row.sha256}"
        )
    write_manifest(after, options.manifest)
    say(f"{len(changed)} of {len(after.rows)} rows changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
