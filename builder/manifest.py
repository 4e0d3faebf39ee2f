"""manifest.json: which files of which repositories make up a profile, and what they
must be.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from animatediff.atomic import written_whole

MANIFEST = Path(__file__).with_name("manifest.json")
EVERYTHING = "all"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ManifestError(ValueError):
    """The manifest says something that cannot be, or a profile is asked for that it
    does not have.
    """


@dataclass(frozen=True)
class Row:
    """``file`` of the hub's ``repo`` at commit ``revision`` becomes ``target`` below
    the models folder.

    None where nobody has pinned it yet. Every row belongs to the profile "all" besides
    its ``profiles``.
    """

    profiles: tuple[str, ...]
    repo: str
    revision: str | None
    file: str
    target: str
    sha256: str | None
    bytes: int | None

    @property
    def pinned(self) -> bool:
        return None not in (self.revision, self.sha256, self.bytes)

    @property
    def name(self) -> str:
        return f"{self.repo}/{self.file}"


@dataclass(frozen=True)
class Manifest:
    """``profiles``: what each is for, by its name."""

    profiles: Mapping[str, str]
    rows: tuple[Row, ...]

    def of_profile(self, profile: str) -> tuple[Row, ...]:
        """Rows of ``profile``. Raises ManifestError for a name that is none."""
        if profile not in self.profiles:
            raise ManifestError(
                f"there is no profile {profile!r}, only {', '.join(self.profiles)}"
            )
        return tuple(row for row in self.rows if profile in (EVERYTHING, *row.profiles))


def read_manifest(path: Path = MANIFEST) -> Manifest:
    """Raises ManifestError that names the row for whatever is not as ``Row`` says;
    OSError.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        profiles, entries = content["profiles"], content["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"{path.name} is no manifest: {error!r}") from None
    rows = tuple(_row(entry, i, profiles) for i, entry in enumerate(entries))
    targets = [row.target for row in rows]
    if twice := {target for target in targets if targets.count(target) > 1}:
        raise ManifestError(
            f"{path.name}: two rows have the target {', '.join(sorted(twice))}"
        )
    return Manifest(profiles, rows)


def write_manifest(manifest: Manifest, path: Path) -> None:
    """One line a row, whole or not at all."""
    rows = ",\n".join(f"    {json.dumps(asdict(row))}" for row in manifest.rows)
    profiles = json.dumps(manifest.profiles, indent=4).replace("\n}", "\n  }")
    text = f'{{\n  "profiles": {profiles},\n  "files": [\n{rows}\n  ]\n}}\n'
    with written_whole(path) as part:
        part.write_text(text, encoding="utf-8")


def _row(entry: Any, i: int, profiles: Mapping[str, str]) -> Row:
    names = {field.name for field in fields(Row)}
    if not isinstance(entry, dict) or entry.keys() != names:
        raise ManifestError(
            f"files[{i}] must have exactly the keys {', '.join(sorted(names))}"
        )
    row = Row(**{**entry, "profiles": tuple(entry["profiles"])})
    target = PurePosixPath(row.target)
    problems = {
        f"profiles {row.profiles}: not all are profiles": not profiles.keys()
        >= set(row.profiles),
        f"repo {row.repo!r}: not owner/name": not re.fullmatch(
            r"[\w.-]+/[\w.-]+", row.repo
        ),
        f"target {row.target!r}: not a path below the models folder": target.is_absolute()
        or ".." in target.parts,
        f"revision {row.revision!r}: neither null nor 40 hex digits": not _fits(
            _COMMIT, row.revision
        ),
        f"sha256 {row.sha256!r}: neither null nor 64 hex digits": not _fits(
            _SHA256, row.sha256
        ),
        f"bytes {row.bytes!r}: neither null nor a size": not (
            row.bytes is None or isinstance(row.bytes, int)
        ),
    }
    for problem, is_so in problems.items():
        if is_so:
            raise ManifestError(f"files[{i}]: {problem}")
    return row


def _fits(pattern: re.Pattern[str], value: str | None) -> bool:
    return value is None or (
        isinstance(value, str) and pattern.fullmatch(value) is not None
    )
