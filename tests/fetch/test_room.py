"""Room for downloads: old ones make way, what is in use stays."""

import errno
import gc
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
from web_site import CONTENT, HUB_FILE, SHA256, Answer, Site, leftovers

from animatediff.errors import AssetError, DiskFull
from animatediff.fetch import cache, room
from animatediff.fetch.assets import Assets, Source
from animatediff.fetch.cache import fetch_url
from animatediff.fetch.hub import HubFile, fetch_hub
from animatediff.fetch.room import keep_in_use, make_room, touch
from animatediff.fetch.rules import DownloadRules
from animatediff.fetch.weight_file import WeightFile, stamp
from animatediff.settings import Settings

Usage = namedtuple("Usage", ("total", "used", "free"))


def kept(rules: DownloadRules) -> set[str]:
    return {path.name for path in (rules.cache_dir / "files").iterdir()}


def put(rules: DownloadRules, name: str, size: int, used: int) -> Path:
    path = rules.cache_dir / "files" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    os.utime(path, (used, used))
    return path


class Disk:
    """A disk whose free room is what its size leaves beside the cache."""

    def __init__(self, size: int, others: int, rules: DownloadRules) -> None:
        self.size, self.others, self.rules = size, others, rules

    def usage(self, _path: object) -> Usage:
        files = [p for p in self.rules.cache_dir.rglob("*") if p.is_file()]
        used = self.others + sum(path.stat().st_size for path in files)
        return Usage(self.size, used, max(self.size - used, 0))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, rules: DownloadRules) -> Disk:
    disk = Disk(10_000_000, 0, rules)
    monkeypatch.setattr(shutil, "disk_usage", disk.usage)
    monkeypatch.setattr(room, "MARGIN", len(CONTENT) // 100)
    return disk


def test_the_least_recently_used_downloads_are_removed_first(
    rules: DownloadRules,
) -> None:
    for number, used in enumerate((300, 100, 200)):
        put(rules, str(number), 1000, used)
    limited = replace(rules, max_cache_bytes=3500)
    make_room(500, limited, rules.cache_dir)
    assert kept(rules) == {"0", "1", "2"}
    make_room(501, limited, rules.cache_dir)
    assert kept(rules) == {"0", "2"}
    touch(rules.cache_dir / "files" / "2")
    make_room(2000, limited, rules.cache_dir)
    assert kept(rules) == {"2"}


def test_a_use_does_not_make_a_file_another_one(rules: DownloadRules) -> None:
    path = put(rules, "a", 10, 1000)
    before = stamp(path)
    assert touch(path) == path
    assert stamp(path) == before
    assert path.stat().st_atime > 10**9


def test_what_is_in_use_stays_even_beyond_the_limit(rules: DownloadRules) -> None:
    limited = replace(rules, max_cache_bytes=1500)
    file = keep_in_use(WeightFile.at(put(rules, "loaded", 1000, 100)))
    put(rules, "other", 1000, 200)
    make_room(1400, limited, rules.cache_dir)
    assert kept(rules) == {"loaded"}
    del file
    gc.collect()
    make_room(1400, limited, rules.cache_dir)
    assert kept(rules) == set()


USER = """
import sys
from pathlib import Path
from animatediff.fetch.room import keep_in_use
from animatediff.fetch.weight_file import WeightFile
file = keep_in_use(WeightFile.at(Path(sys.argv[1])))
print("in use", flush=True)
sys.stdin.read()
"""


def test_what_another_worker_uses_stays_until_it_ends(rules: DownloadRules) -> None:
    limited = replace(rules, max_cache_bytes=1500)
    path = put(rules, "loaded", 1000, 100)
    put(rules, "other", 1000, 200)
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", USER, str(path)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "in use\n"
        make_room(1400, limited, rules.cache_dir)
        assert kept(rules) == {"loaded"}
        worker.kill()
    make_room(1400, limited, rules.cache_dir)
    assert kept(rules) == set()


def test_a_file_that_has_just_been_removed_is_not_in_use(rules: DownloadRules) -> None:
    path = put(rules, "gone", 10, 100)
    file = WeightFile.at(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        keep_in_use(file)


def test_a_job_whose_file_is_removed_may_be_sent_again(
    tmp_path: Path,
) -> None:
    assets = Assets(Settings(models_dir=tmp_path, cache_dir=tmp_path / "cache"))
    source = Source("a.safetensors", tmp_path / "a.safetensors", "here")
    with pytest.raises(AssetError, match="just been removed") as caught:
        assets.fetch(source, "loras.0.path")
    assert caught.value.retryable


def test_a_download_makes_room_for_itself(site: Site, rules: DownloadRules) -> None:
    size = len(CONTENT)
    for announced in (None, -1):
        limited = replace(rules, max_cache_bytes=size * 3 // 2)
        put(rules, "old", size, 100)
        path = fetch_url(site.gives(Answer(length=announced)), limited)
        assert kept(rules) == {path.name}


def test_files_of_the_hub_are_downloads_too(hub: Site, rules: DownloadRules) -> None:
    """The content goes, not only the links to it."""
    hub.gives(Answer(headers=HUB_FILE), path="/owner/repo/resolve/main/x.bin")
    path = fetch_hub(HubFile("owner/repo", "x.bin"), rules)
    blob = path.resolve()
    put(rules, "newer", 10, 10**10)
    limited = replace(rules, max_cache_bytes=len(CONTENT) + 10)
    make_room(0, limited, rules.cache_dir)
    assert path.is_file()
    make_room(1, limited, rules.cache_dir)
    assert not path.is_symlink()
    assert not blob.exists()
    assert kept(rules) == {"newer"}
    assert fetch_hub(HubFile("owner/repo", "x.bin"), rules).read_bytes() == CONTENT


def test_a_full_disk_is_seen_before_the_download(
    site: Site, rules: DownloadRules, disk: Disk
) -> None:
    size = len(CONTENT)
    disk.size, disk.others = 5 * size, 3 * size
    put(rules, "old", size, 100)
    url = site.gives(Answer())
    path = fetch_url(url, rules)
    assert kept(rules) == {path.name}  # the old one made way
    disk.others = 4 * size
    with pytest.raises(DiskFull) as caught:
        fetch_url(site.gives(Answer(), path="/a"), rules)
    assert not caught.value.fatal  # the old one can make way for small jobs
    assert kept(rules) == {path.name}  # nothing is lost for a file that cannot fit
    path.unlink()
    disk.others = 5 * size
    with pytest.raises(DiskFull) as caught:
        fetch_url(site.gives(Answer(), path="/b"), rules)
    assert caught.value.retryable
    assert caught.value.fatal  # other files fill this disk; small jobs have no room
    assert (caught.value.details["needed"], caught.value.details["free"]) == (size, 0)
    disk.size, disk.others = size // 2, 0
    with pytest.raises(DiskFull) as caught:
        fetch_url(site.gives(Answer(), path="/c"), rules)
    assert caught.value.retryable
    assert not caught.value.fatal  # no disk of this size has room; other jobs go on
    assert [path for _, path, _ in site.asked].count("/c") == 1
    assert kept(rules) == set()


def test_a_size_that_is_only_announced_removes_nothing(
    site: Site, rules: DownloadRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "ROOM_STEP", 1000)
    size = len(CONTENT)
    put(rules, "old", 9 * size, 100)
    limited = replace(rules, max_cache_bytes=11 * size)
    with pytest.raises(AssetError):
        fetch_url(site.gives(Answer(length=11 * size)), limited)
    assert kept(rules) == {"old"}


def test_a_file_larger_than_the_cache_is_there_for_its_job(
    site: Site, rules: DownloadRules
) -> None:
    limited = replace(rules, max_cache_bytes=len(CONTENT) // 2)
    for announced in (None, -1):
        assert fetch_url(site.gives(Answer(length=announced)), limited).is_file()


def test_a_disk_that_is_full_only_while_the_file_comes(
    site: Site, rules: DownloadRules, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "ROOM_STEP", 1000)
    disk.size = 5000
    with pytest.raises(DiskFull):
        fetch_url(site.gives(Answer(length=-1)), rules)
    assert len(site.asked) == 1
    assert leftovers(rules) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_left_is_no_error_of_the_network(
    code: int, site: Site, rules: DownloadRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> str:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(cache, "_write", full)
    with pytest.raises(DiskFull) as caught:
        fetch_url(site.gives(Answer()), rules)
    assert caught.value.retryable
    assert len(site.asked) == 1
    assert SHA256 not in str(leftovers(rules))
