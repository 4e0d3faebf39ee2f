"""The fake hub of the download tests, with repositories that answer as the real one
does.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from web_site import COMMIT, Answer, Site

from animatediff.catalog.files import FileTable, PublishedFile, write_files

CONTENT = bytes(range(256)) * 8


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def row(**changes: object) -> PublishedFile:
    """A pinned row for ``CONTENT``."""
    values = {
        "profiles": ("small",),
        "repo": "owner/repo",
        "revision": COMMIT,
        "file": "folder/file.bin",
        "target": "weights/file.bin",
        "also": None,
        "about": None,
        "sha256": sha256(CONTENT),
        "bytes": len(CONTENT),
    }
    return PublishedFile(**{**values, **changes})


def hub_answer(content: bytes = CONTENT, **changes: object) -> Answer:
    values = {
        "body": content,
        "headers": {"X-Repo-Commit": COMMIT, "ETag": f'"{sha256(content)}"'},
    }
    return Answer(**{**values, **changes})


def give(
    hub: Site, *answers: Answer, file: str = "folder/file.bin", revision: str = COMMIT
) -> None:
    hub.gives(*answers, path=f"/owner/repo/resolve/{revision}/{file}")


def give_repository(
    hub: Site, files: list[dict], revision: str = "main", commit: str = COMMIT
) -> None:
    """What the hub's API says of a repository. ``files`` as it lists them: rfilename,
    size, lfs.
    """
    body = json.dumps(
        {"id": "owner/repo", "sha": commit, "siblings": files, "private": False}
    ).encode()
    tail = "" if revision == "main" else f"/revision/{revision}"
    hub.gives(
        Answer(body, headers={"Content-Type": "application/json"}),
        path=f"/api/models/owner/repo{tail}",
    )


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    def make(*rows: PublishedFile) -> Path:
        path = tmp_path / "files.json"
        write_files(FileTable({"small": "for tests", "all": "everything"}, rows), path)
        return path

    return make
