"""Make a release: python -m scripts.release VERSION [--dry-run] (make release).

Checks that the tree is clean and that CHANGELOG.md has a dated heading for the version.
Then sets ``animatediff.__version__``, commits and tags that, and puts wheel, sdist and
release notes into dist/. The image's label follows from ``__version__``; RunPod's Hub
follows from the tag, and its files hold no version.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from lab.check_wheel import build

ROOT = Path(__file__).resolve().parent.parent
VERSION_FILE = Path("animatediff", "__init__.py")
VERSION_LINE = re.compile(r'^__version__ = ".*"$', re.MULTILINE)
Build = Callable[[Path], tuple[Path, Path]]
"""Builds sdist and wheel in a folder."""


class ReleaseError(Exception):
    """The release cannot be made; the text says why."""


def notes_of(changelog: str, version: str) -> str:
    """Return the section of a version, without its heading. Raises ReleaseError."""
    heading = rf"^## {re.escape(version)} - \d{{4}}-\d\d-\d\d$"
    section = re.search(rf"{heading}\n(.*?)(?=^## |\Z)", changelog, re.M | re.S)
    notes = section[1].strip() if section else ""
    if not notes:
        raise ReleaseError(
            f"CHANGELOG.md has no entries below a heading '## {version} - YYYY-MM-DD'"
        )
    return notes


def check_tree(root: Path, version: str) -> None:
    """Raise ReleaseError for a bad version, an unclean tree, or a tag that exists."""
    if not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", version):
        raise ReleaseError(f"{version!r} is no version such as 1.0.0 or 1.0.0rc1")
    if changes := git(root, "status", "--porcelain"):
        raise ReleaseError(f"the tree is not clean:\n{changes}")
    if git(root, "tag", "--list", f"v{version}"):
        raise ReleaseError(f"the tag v{version} exists")


def git(root: Path, *arguments: str) -> str:
    """Run a git command and return its output. Raises ReleaseError."""
    command = ["git", *arguments]
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ReleaseError(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def release(root: Path, version: str, notes: str, builder: Build) -> list[Path]:
    """Commit, tag and build. Return the files in dist/."""
    path = root / VERSION_FILE
    text = VERSION_LINE.sub(f'__version__ = "{version}"', path.read_text("utf-8"))
    path.write_text(text, encoding="utf-8")
    if git(root, "status", "--porcelain"):
        git(root, "commit", "--quiet", "--all", "--message", f"Version {version}")
    dist = root / "dist"
    dist.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        built = [shutil.copy(file, dist) for file in builder(Path(folder))]
    page = dist / f"notes-{version}.md"
    page.write_text(f"{notes}\n", encoding="utf-8")
    git(root, "tag", "--annotate", f"v{version}", "--message", f"Version {version}")
    return [*map(Path, built), page]


def main(
    arguments: Sequence[str] | None = None, root: Path = ROOT, builder: Build = build
) -> int:
    """Make the release, or show what it would be."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.release", description="Make a release."
    )
    parser.add_argument("version", help="such as 1.0.0")
    parser.add_argument("--dry-run", action="store_true", help="check, show and stop")
    options = parser.parse_args(arguments)
    try:
        check_tree(root, options.version)
        notes = notes_of((root / "CHANGELOG.md").read_text("utf-8"), options.version)
        if not options.dry_run:
            for path in release(root, options.version, notes, builder):
                print(path)
    except ReleaseError as error:
        print(error, file=sys.stderr)
        return 1
    _show_next_steps(options.version, notes, options.dry_run)
    return 0


def _show_next_steps(version: str, notes: str, dry_run: bool) -> None:
    tag = f"animatediff-serverless:{version}"
    if dry_run:
        print(f"would commit and tag v{version}, and build dist/ with these notes:")
        print(f"\n{notes}\n")
    print("next:")
    print(f"  git push origin HEAD v{version}   # the Hub builds the tag")
    print(f"  make image PROFILE=sd15-v3 TAG={tag}   # labelled {version}")


if __name__ == "__main__":
    sys.exit(main())
