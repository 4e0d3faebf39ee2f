"""What killed downloads leave, and that the next start removes it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from web_site import Answer, Site, leftovers

from animatediff.fetch import leftovers as module
from animatediff.fetch.assets import Assets
from animatediff.fetch.cache import fetch_url, tidy
from animatediff.fetch.hub import sweep_leftovers
from animatediff.fetch.leftovers import incoming_folder
from animatediff.fetch.rules import DownloadRules
from animatediff.settings import Settings

CHILD = """
import sys, time
from pathlib import Path
from animatediff.fetch.leftovers import incoming_folder

with incoming_folder(Path(sys.argv[1])) as folder:
    (folder / "part").write_bytes(bytes(1000))
    print("writes", flush=True)
    time.sleep(60)
"""


def writer(folder: Path) -> "subprocess.Popen[bytes]":
    """Start a process that is amid a download."""
    command = [sys.executable, "-c", CHILD, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"writes\n"
    return process


def hidden(cache_dir: Path) -> list[Path]:
    return list(cache_dir.glob("*/.writing-*"))


def test_a_killed_download_is_swept_and_a_running_one_is_not(tmp_path: Path) -> None:
    settings = Settings(cache_dir=tmp_path, models_dir=tmp_path)
    (tmp_path / "files").mkdir()
    process = writer(tmp_path / "files")
    Assets(settings)
    assert len(hidden(tmp_path)) == 1
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(hidden(tmp_path)) == 1
    Assets(settings)
    assert hidden(tmp_path) == []


def test_another_machine_s_download_is_swept_when_it_is_old(tmp_path: Path) -> None:
    """Its lock may not be seen here."""
    left = tmp_path / "files" / ".writing-x"
    left.mkdir(parents=True)
    (left / "lock").write_text("another-machine")
    (left / "part").write_bytes(b"x")
    tidy(tmp_path)
    assert left.is_dir()
    old = time.time() - module.STALE_SECONDS - 10
    os.utime(left / "lock", (old, old))
    os.utime(left, (old, old))
    tidy(tmp_path)
    assert left.is_dir()  # it still grows
    os.utime(left / "part", (old, old))
    tidy(tmp_path)
    assert not left.exists()


def test_a_folder_without_locks_still_takes_downloads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr(module.fcntl, "flock", refuse)
    with incoming_folder(tmp_path) as folder:
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("hub")
def test_the_hub_s_incomplete_files_are_swept(tmp_path: Path) -> None:
    repo = tmp_path / "hub" / "models--owner--repo"
    (repo / "blobs").mkdir(parents=True)
    locks = tmp_path / "hub" / ".locks" / repo.name
    locks.mkdir(parents=True)
    for name in ("dead", "alive"):
        (repo / "blobs" / f"{name}.0123abcd.incomplete").write_bytes(b"x")
    (repo / "blobs" / "whole").write_bytes(b"x")
    with (locks / "alive.lock").open("w") as lock:
        module.fcntl.flock(lock, module.fcntl.LOCK_EX)
        sweep_leftovers()
    names = {path.name for path in (repo / "blobs").iterdir()}
    assert names == {"whole", "alive.0123abcd.incomplete"}


def test_what_is_known_of_files_that_are_gone_is_forgotten(
    site: Site, rules: DownloadRules
) -> None:
    gone = fetch_url(site.gives(Answer(b"a"), path="/a") + "?x=1", rules)
    stays = fetch_url(site.gives(Answer(b"b"), path="/b") + "?x=1", rules)
    gone.unlink()
    tidy(rules.cache_dir)
    assert len(leftovers(rules)) == 4  # the file, two entries, and the mark
    assert stays.is_file()


def test_a_cache_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    tidy(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []
