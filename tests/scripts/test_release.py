"""A release: what stops it, and what it commits, tags and builds."""

import subprocess
from pathlib import Path

import pytest

from animatediff import __version__
from scripts import release

CHANGELOG = """# Changelog

## 2.0.0 - 2030-01-02

- Clips are longer.
- Pages are shorter.

## 1.9.0 - 2029-01-02

- An old entry.

## 1.8.0

- Without a date.
"""
NOTES = "- Clips are longer.\n- Pages are shorter."


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(
        ["git", *identity, *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with as much of the project as a release looks at."""
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "t")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "t@example.org")
    root = tmp_path / "project"
    (root / "animatediff").mkdir(parents=True)
    version = 'import os\n\n__version__ = "1.0.0.dev0"\nlast = 1\n'
    (root / "animatediff" / "__init__.py").write_text(version)
    (root / "CHANGELOG.md").write_text(CHANGELOG)
    (root / ".gitignore").write_text("dist/\n")
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "start")
    return root


def test_the_project_states_its_version_once_as_a_release_reads_it() -> None:
    text = (release.ROOT / release.VERSION_FILE).read_text()
    assert release.VERSION_LINE.findall(text) == [f'__version__ = "{__version__}"']
    assert text.count("__version__ =") == 1


def fake_build(folder: Path) -> tuple[Path, Path]:
    files = folder / "a.tar.gz", folder / "a.whl"
    for file in files:
        file.write_text(file.suffix)
    return files


def test_release_commits_tags_and_builds(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert release.main(["2.0.0"], root=project, builder=fake_build) == 0
    text = (project / "animatediff" / "__init__.py").read_text()
    assert text == 'import os\n\n__version__ = "2.0.0"\nlast = 1\n'
    assert git(project, "show", "--no-patch", "--format=%s", "v2.0.0^{}") == (
        "Version 2.0.0"
    )
    assert not git(project, "status", "--porcelain")
    assert (project / "dist" / "notes-2.0.0.md").read_text() == f"{NOTES}\n"
    names = {path.name for path in (project / "dist").iterdir()}
    assert names == {"a.tar.gz", "a.whl", "notes-2.0.0.md"}
    assert "v2.0.0" in capsys.readouterr().out


def test_dry_run_changes_nothing(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert release.main(["2.0.0", "--dry-run"], root=project) == 0
    assert NOTES in capsys.readouterr().out
    assert not git(project, "status", "--porcelain", "--ignored")
    assert not git(project, "tag")


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("two", "no version"),
        ("3.0.0", "## 3.0.0 - YYYY-MM-DD"),
        ("1.8.0", "## 1.8.0 - YYYY-MM-DD"),
        ("1.9.0", "the tag v1.9.0 exists"),
    ],
)
def test_release_is_refused(
    project: Path, version: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    git(project, "tag", "v1.9.0")
    assert release.main([version], root=project) == 1
    assert message in capsys.readouterr().err


def test_unclean_tree_is_refused(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "new.txt").touch()
    assert release.main(["2.0.0"], root=project) == 1
    assert "not clean:\n?? new.txt" in capsys.readouterr().err


@pytest.mark.slow
def test_make_release_in_a_clone(tmp_path: Path) -> None:
    """The real project, with an entry for a version to come."""
    clone = tmp_path / "clone"
    source = f"file://{release.ROOT}"
    git(tmp_path, "clone", "--quiet", "--depth", "1", source, str(clone))
    entry = "# Changelog\n\n## 99.0.0 - 2030-01-02\n\n- An entry.\n"
    changelog = clone / "CHANGELOG.md"
    changelog.write_text(changelog.read_text().replace("# Changelog\n", entry, 1))
    git(clone, "commit", "--quiet", "--all", "--message", "an entry")
    head = git(clone, "rev-parse", "HEAD")
    assert release.main(["99.0.0", "--dry-run"], root=clone) == 0
    assert git(clone, "rev-parse", "HEAD") == head
    assert not git(clone, "status", "--porcelain", "--ignored")
