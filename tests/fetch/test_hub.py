"""Files of a hub on loopback, in the cache of the hub's own library."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http
from web_site import COMMIT, CONTENT, HUB_FILE, Answer, Site, failure

from animatediff.fetch.hub import HubFile, _bar_that_reports, fetch_hub
from animatediff.fetch.rules import DownloadRules
from animatediff.progress import Progress


def hub_gives(hub: Site, *answers: Answer, revision: str = "main") -> None:
    hub.gives(*answers, path=f"/owner/repo/resolve/{revision}/folder/file.bin")


def fetch_it(rules: DownloadRules, revision: str | None = None) -> Path:
    return fetch_hub(HubFile("owner/repo", "folder/file.bin", revision), rules)


def methods(hub: Site) -> list[str]:
    return [method for method, path, _ in hub.asked if "/resolve/" in path]


def test_hub_file(
    hub: Site, rules: DownloadRules, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    hub_gives(hub, Answer(headers=HUB_FILE))
    path = fetch_it(rules)
    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(tmp_path / "hub")
    assert path.name == "file.bin"
    assert {
        headers.get("authorization")
        for _, path, headers in hub.asked
        if "resolve" in path
    } == {"Bearer hf_token"}
    assert fetch_it(rules, "main") == path
    assert methods(hub).count("GET") == 1
    hub.asked.clear()
    assert fetch_it(rules, COMMIT) == path
    assert hub.asked == []


def test_hub_revision(hub: Site, rules: DownloadRules) -> None:
    hub_gives(hub, Answer(b"of a branch", headers=HUB_FILE), revision="refs%2Fpr%2F1")
    assert fetch_it(rules, "refs/pr/1").read_bytes() == b"of a branch"


@pytest.mark.parametrize(
    ("status", "headers", "part"),
    [
        (
            404,
            {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT},
            "no such file",
        ),
        (404, {"X-Error-Code": "RevisionNotFound"}, "no such revision"),
        (404, {"X-Error-Code": "RepoNotFound"}, "no repository of the hub"),
        (401, {"X-Error-Code": "RepoNotFound"}, "HF_TOKEN"),
        (401, {"X-Error-Code": "GatedRepo"}, "HF_TOKEN"),
        (403, {"X-Error-Code": "GatedRepo"}, "HF_TOKEN"),
        (401, {}, "HF_TOKEN"),
        (
            401,
            {"X-Error-Message": "Invalid credentials in Authorization header"},
            "HF_TOKEN",
        ),
        (403, {}, "HF_TOKEN"),
        (403, {"X-Error-Message": "Access to this resource is disabled."}, "HTTP 403"),
        (404, {}, "HTTP 404"),
        (400, {}, "HTTP 400"),
    ],
)
def test_hub_refusals(
    status: int, headers: dict[str, str], part: str, hub: Site, rules: DownloadRules
) -> None:
    hub_gives(hub, Answer(b"", status, headers))
    error = failure(lambda: fetch_it(rules, "main"))
    assert not error.retryable
    assert error.message.startswith("folder/file.bin of owner/repo at revision main ")
    assert part in error.message
    assert methods(hub) == ["HEAD"]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_hub_is_down(status: int, hub: Site, rules: DownloadRules) -> None:
    hub_gives(hub, Answer(b"", status))
    error = failure(lambda: fetch_it(rules))
    assert error.retryable
    assert error.details["status"] == status
    assert (
        methods(hub) == ["HEAD"] * 7
    )  # the library tried once, and then again with five retries


def test_hub_recovers(hub: Site, rules: DownloadRules) -> None:
    hub_gives(hub, Answer(b"", 503), Answer(b"", 503), Answer(headers=HUB_FILE))
    assert fetch_it(rules).read_bytes() == CONTENT


def test_hub_is_down_but_the_file_is_here(hub: Site, rules: DownloadRules) -> None:
    hub_gives(hub, Answer(headers=HUB_FILE))
    path = fetch_it(rules)
    hub_gives(hub, Answer(b"", 503))
    assert fetch_it(rules) == path


def test_hub_breaks_off(hub: Site, rules: DownloadRules, tmp_path: Path) -> None:
    hub_gives(hub, Answer(headers=HUB_FILE), Answer(headers=HUB_FILE), Answer(b"", 503))
    error = failure(lambda: fetch_it(rules))
    assert methods(hub) == ["HEAD", "HEAD", "GET"]
    assert error.retryable
    assert not list((tmp_path / "hub").rglob("*.incomplete"))


def test_nobody_is_the_hub(
    hub: Site, rules: DownloadRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    template = f"http://127.0.0.1:{port}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    error = failure(lambda: fetch_it(rules))
    assert error.retryable
    assert "ConnectError" in error.message
    assert methods(hub) == []


def test_something_else_is_the_hub(hub: Site, rules: DownloadRules) -> None:
    hub_gives(hub, Answer(b"<html>"))
    assert "FileMetadataError" in failure(lambda: fetch_it(rules)).message


@pytest.mark.parametrize(
    "closed",
    [{"offline": True}, {"hosts": ()}, {"hosts": ("example.org",)}],
    ids=["offline", "none", "another"],
)
def test_hub_may_not_be_asked(closed: dict, hub: Site, rules: DownloadRules) -> None:
    hub_gives(hub, Answer(headers=HUB_FILE))
    error = failure(lambda: fetch_it(replace(rules, **closed)))
    assert not error.retryable
    assert "may not be downloaded" in error.message
    assert hub.asked == []
    path = fetch_it(replace(rules, hosts=("127.0.0.1",)))
    hub.asked.clear()
    assert fetch_it(replace(rules, **closed)) == path
    assert hub.asked == []


def test_the_hub_librarys_own_offline_switch(
    hub: Site, rules: DownloadRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    _http.close_session()
    assert "may not be downloaded" in failure(lambda: fetch_it(rules)).message
    assert hub.asked == []


def test_hub_file_too_large(hub: Site, rules: DownloadRules) -> None:
    hub_gives(hub, Answer(headers=HUB_FILE))
    error = failure(lambda: fetch_it(replace(rules, max_bytes=len(CONTENT) - 1)))
    assert not error.retryable
    assert error.details["limit"] == len(CONTENT) - 1
    assert methods(hub) == ["HEAD"]


def test_hub_file_of_unknown_size(hub: Site, rules: DownloadRules) -> None:
    hub_gives(hub, Answer(headers=HUB_FILE, length=-1))
    assert "larger" in failure(lambda: fetch_it(rules)).message
    assert methods(hub) == ["HEAD"]


@pytest.mark.parametrize(
    ("repo", "file"),
    [
        ("../repo", "file.bin"),
        ("a/b/c", "file.bin"),
        ("owner/repo", "../../file.bin"),
        ("owner/repo", "/etc/passwd"),
        ("owner/repo", "a\\..\\b"),
    ],
)
def test_names_that_lead_out_of_the_hub_cache(
    repo: str, file: str, hub: Site, rules: DownloadRules, tmp_path: Path
) -> None:
    for each in (rules, replace(rules, offline=True)):
        error = failure(lambda each=each: fetch_hub(HubFile(repo, file), each))
        assert not error.retryable
        assert str(tmp_path) not in json.dumps(error.to_dict())
    assert methods(hub) == []


@pytest.mark.parametrize("revision", ["../../../x", "..", "/x", "a\x00b"])
def test_revisions_that_lead_out_of_the_hub_cache(
    revision: str, hub: Site, rules: DownloadRules, tmp_path: Path
) -> None:
    """Even if a hub says that there is such a one."""
    hub_gives(hub, Answer(headers=HUB_FILE), revision=quote(revision, safe=""))
    for each in (rules, replace(rules, offline=True)):
        error = failure(lambda each=each: fetch_it(each, revision))
        assert not error.retryable
        assert str(tmp_path) not in json.dumps(error.to_dict())
    assert "GET" not in methods(hub)


def test_a_download_from_the_hub_reports_its_bytes(
    hub: Site, rules: DownloadRules
) -> None:
    reports: list[Progress] = []
    file = HubFile("owner/repo", "folder/file.bin")
    hub_gives(hub, Answer(headers=HUB_FILE))
    fetch_hub(file, rules, reports.append)
    assert {report.phase for report in reports} == {"download"}
    assert (reports[0].step, reports[0].total) == (0, len(CONTENT))
    assert (reports[-1].step, reports[-1].total) == (len(CONTENT), len(CONTENT))
    reports.clear()
    fetch_hub(HubFile("owner/repo", "folder/file.bin", COMMIT), rules, reports.append)
    assert reports == []


def test_bytes_on_the_wire_are_not_counted_twice() -> None:
    """The library shows two bars for one file where a store compresses."""
    reports: list[Progress] = []
    bar: Any = _bar_that_reports(reports.append)(total=10)
    bar.update_transfer(7)
    bar.set_transfer_postfix_str("7 B/s", refresh=False)
    bar.update(10)
    assert reports[-1].step == 10


def test_a_job_s_file_does_not_come_by_xet(hub: Site, rules: DownloadRules) -> None:
    """Its client works on threads of its own, which no deadline ends."""
    xet = {"X-Xet-Hash": "c" * 64, "X-Xet-Refresh-Route": hub.url("/xet-token")}
    hub_gives(hub, Answer(headers={**HUB_FILE, **xet}))
    assert fetch_it(rules).read_bytes() == CONTENT
    assert methods(hub) == ["HEAD", "HEAD", "GET"]
    assert not [path for _, path, _ in hub.asked if "xet" in path]


def test_two_jobs_fetch_a_file_of_the_hub_once(hub: Site, rules: DownloadRules) -> None:
    go_on = threading.Event()
    whole = Answer(headers=HUB_FILE)
    hub_gives(hub, whole, whole, replace(whole, hook=lambda: go_on.wait(5)))
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(fetch_it, rules) for _ in range(2)]
        time.sleep(0.3)
        go_on.set()
        assert len({job.result(10) for job in jobs}) == 1
    assert methods(hub) == ["HEAD", "HEAD", "GET"]
