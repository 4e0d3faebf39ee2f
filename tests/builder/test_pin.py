"""builder.pin against a hub on loopback."""

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_hub import CONTENT, give, give_repository, hub_answer, row, sha256
from web_site import COMMIT, Answer, Site

from animatediff.catalog.files import read_files
from builder.pin import main

LARGE = {
    "rfilename": "folder/file.bin",
    "size": 2048,
    "lfs": {"size": 2048, "sha256": sha256(CONTENT), "pointerSize": 99},
}
SMALL = {"rfilename": "config.json", "size": 2}
NOTHING = {"revision": None, "sha256": None, "bytes": None}
Make = Callable[..., Path]


def test_large_files_hashes_are_the_hubs(hub: Site, table: Make) -> None:
    give_repository(hub, [LARGE])
    path = table(row(**NOTHING))
    assert main(["--files", str(path)]) == 0
    assert read_files(path).rows == (row(),)
    assert not any("/resolve/" in asked for _, asked, _ in hub.asked)


def test_small_files_are_hashed_here(hub: Site, table: Make) -> None:
    give_repository(hub, [SMALL])
    give(hub, hub_answer(b"{}"), file="config.json")
    path = table(row(file="config.json", **NOTHING))
    assert main(["--files", str(path)]) == 0
    assert read_files(path).rows == (
        row(file="config.json", sha256=sha256(b"{}"), bytes=2),
    )


def test_a_repository_is_asked_for_once(hub: Site, table: Make) -> None:
    give_repository(hub, [LARGE, {**LARGE, "rfilename": "b.bin"}])
    path = table(row(**NOTHING), row(file="b.bin", target="b.bin", **NOTHING))
    assert main(["--files", str(path)]) == 0
    assert (
        len([asked for _, asked, _ in hub.asked if asked.startswith("/api/models/")])
        == 1
    )


def test_a_known_revision_is_kept(hub: Site, table: Make) -> None:
    give_repository(hub, [LARGE], commit="f" * 40)
    give_repository(hub, [LARGE], revision=COMMIT)
    path = table(row(sha256=None, bytes=None))
    assert main(["--files", str(path)]) == 0
    assert read_files(path).rows == (row(),)


def test_update_takes_the_newest(hub: Site, table: Make) -> None:
    give_repository(hub, [LARGE], commit="f" * 40)
    path = table(row(sha256="0" * 64))
    assert main(["--files", str(path), "--update"]) == 0
    assert read_files(path).rows == (row(revision="f" * 40),)


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"bytes": 1}])
def test_another_content_than_known_changes_nothing(
    change: dict, hub: Site, table: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    give_repository(hub, [LARGE, {**LARGE, "rfilename": "b.bin"}], revision=COMMIT)
    path = table(
        row(**change), row(file="b.bin", target="b.bin", sha256=None, bytes=None)
    )
    before = path.read_text()
    assert main(["--files", str(path)]) == 1
    assert path.read_text() == before
    assert f"{next(iter(change))} is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "reports"),
    [
        (
            Answer(b"", 404, {"X-Error-Code": "RepoNotFound"}),
            "no repository of the hub",
        ),
        (Answer(b"", 401), "FAILED owner/repo/folder/file.bin"),
        (Answer(b"<html>"), "FAILED owner/repo/folder/file.bin"),
        (None, "no such file at"),
    ],
    ids=["no repository", "401", "no JSON", "no file"],
)
def test_what_the_hub_does_not_have(
    answer: Answer | None,
    reports: str,
    hub: Site,
    table: Make,
    capsys: pytest.CaptureFixture[str],
) -> None:
    give_repository(hub, [SMALL])
    if answer:
        hub.gives(answer, path="/api/models/owner/repo")
    path = table(row(**NOTHING))
    before = path.read_text()
    assert main(["--files", str(path)]) == 1
    assert reports in capsys.readouterr().err
    assert path.read_text() == before


def test_no_table(tmp_path: Path) -> None:
    assert main(["--files", str(tmp_path / "none.json")]) == 2
