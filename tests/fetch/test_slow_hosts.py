"""Hosts that are slow on purpose: no job, and no thread of a worker, waits for them."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from web_site import HUB_FILE, Answer, Site, failure, leftovers

from animatediff.catalog.files import PublishedFile
from animatediff.deadline import Deadline
from animatediff.errors import JobCancelled, JobTimedOut, WorkerStopped
from animatediff.fetch import network, profiles, transfers
from animatediff.fetch.cache import fetch_url
from animatediff.fetch.hub import HubFile, fetch_hub
from animatediff.fetch.network import fetch_bytes
from animatediff.fetch.rules import DownloadRules

pytestmark = pytest.mark.slow

Fetch = Callable[[DownloadRules, Deadline], Any]


@pytest.fixture(params=["file", "picture", "hub"])
def fetch(request: pytest.FixtureRequest, site: Site) -> Fetch:
    """Fetches what the site, or the hub, gives in drops."""
    if request.param == "hub":
        return lambda rules, deadline: fetch_hub(
            HubFile("owner/repo", "x.bin"), rules, deadline=deadline
        )
    call = fetch_url if request.param == "file" else fetch_bytes
    return lambda rules, deadline: call(site.url(), rules, deadline=deadline)


@pytest.fixture(params=["head", "body"])
def server(request: pytest.FixtureRequest, site: Site, hub: Site) -> Site:
    """Let both servers drip; return the site."""
    drips = Answer(drips=request.param, headers=HUB_FILE)
    site.gives(drips)
    whole = Answer(headers=HUB_FILE, length=500_000)
    answers = [drips] if request.param == "head" else [whole, whole, drips]
    hub.gives(*answers, path="/owner/repo/resolve/main/x.bin")
    return site


@pytest.fixture
def no_thread_left() -> Iterator[None]:
    yield
    end = time.monotonic() + 5
    while [each for each in threading.enumerate() if each.name == "transfer"]:
        assert time.monotonic() < end, "a transfer goes on"
        time.sleep(0.01)


@pytest.mark.usefixtures("server", "no_thread_left")
def test_the_time_limit_ends_a_slow_transfer(
    fetch: Fetch, rules: DownloadRules
) -> None:
    deadline, start = Deadline(0.4), time.monotonic()
    with pytest.raises(JobTimedOut) as caught:
        fetch(rules, deadline)
    assert time.monotonic() - start < 2
    assert caught.value.details["phase"] == "download"
    assert caught.value.retryable
    assert leftovers(rules) == []


@pytest.mark.usefixtures("server", "no_thread_left")
@pytest.mark.parametrize("error", [JobCancelled, WorkerStopped])
def test_a_cancel_and_the_worker_s_end_end_it(
    error: type[Exception], fetch: Fetch, rules: DownloadRules
) -> None:
    event, start = threading.Event(), time.monotonic()
    is_cancel = error is JobCancelled
    deadline = Deadline(cancelled=event) if is_cancel else Deadline(stopped=event)
    threading.Timer(0.3, event.set).start()
    with pytest.raises(error):
        fetch(rules, deadline)
    assert time.monotonic() - start < 2


@pytest.mark.usefixtures("server", "no_thread_left")
def test_a_rate_that_is_too_low_ends_it(
    fetch: Fetch, rules: DownloadRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "WINDOW", 0.4)
    start = time.monotonic()
    error = failure(lambda: fetch(replace(rules, min_rate=10_000), Deadline()))
    assert time.monotonic() - start < 3
    assert error.retryable
    assert "comes too slowly" in error.message
    assert "at least 10000 are needed" in error.message


@pytest.mark.usefixtures("server", "no_thread_left")
def test_a_profile_does_not_wait_for_a_slow_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "WINDOW", 0.4)
    row = PublishedFile(
        profiles=(),
        repo="owner/repo",
        revision=None,
        file="x.bin",
        target="x.bin",
        also=None,
        sha256=None,
        bytes=None,
        about=None,
    )
    fetcher = profiles.Fetcher(tmp_path / "models", tmp_path / "cache")
    (failed,) = profiles.fetch_all([row], fetcher, jobs=1)
    assert "x.bin of owner/repo" in failed
    assert "comes too slowly" in failed
    assert not list((tmp_path / "models").rglob("x.bin"))


@pytest.mark.usefixtures("server", "no_thread_left")
def test_a_rate_that_is_low_but_allowed_does_not(
    fetch: Fetch, rules: DownloadRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "WINDOW", 0.3)
    with pytest.raises(JobTimedOut):
        fetch(replace(rules, min_rate=0), Deadline(0.7))


@pytest.mark.usefixtures("server", "no_thread_left")
def test_one_download_has_a_longest_time(fetch: Fetch, rules: DownloadRules) -> None:
    error = failure(lambda: fetch(replace(rules, max_seconds=0.3), Deadline()))
    assert error.retryable
    assert "could not be fetched within 0.3 s" in error.message


def test_the_server_sees_that_the_job_has_left(
    site: Site, rules: DownloadRules
) -> None:
    url = site.gives(Answer(drips="body"))
    with pytest.raises(JobTimedOut):
        fetch_url(url, rules, deadline=Deadline(0.3))
    assert site.left.wait(5)


def test_a_server_that_says_nothing_after_the_connection(
    rules: DownloadRules,
) -> None:
    """Not even its part of the TLS handshake."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/x"
        start = time.monotonic()
        with pytest.raises(JobTimedOut):
            fetch_bytes(url, rules, deadline=Deadline(0.3))
    assert time.monotonic() - start < 2


def test_a_name_server_that_does_not_answer(
    rules: DownloadRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def look_up(*_: Any, **__: Any) -> list[Any]:
        go_on.wait(20)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(transfers, "CLEANUP_SECONDS", 0.1)
    start = time.monotonic()
    with pytest.raises(JobTimedOut):
        fetch_bytes("https://example.org/x", rules, deadline=Deadline(0.3))
    assert time.monotonic() - start < 2
    go_on.set()


class NobodyThere:
    """Takes the place of requests.Session: each address takes its time to connect."""

    def __init__(self, waits: list[float]) -> None:
        self.waits = waits

    def __enter__(self) -> "NobodyThere":
        return self

    def __exit__(self, *_: object) -> None: ...

    def mount(self, *_: object) -> None: ...

    def get(self, *_: object, timeout: tuple[float, float], **__: object) -> None:
        self.waits.append(timeout[0])
        time.sleep(min(timeout[0], 0.1))
        raise network.requests.ConnectTimeout


def test_many_addresses_of_one_name_are_not_as_many_waits(
    rules: DownloadRules,
    resolves: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolves["example.org"] = [f"93.184.{a}.{b}" for a in range(9) for b in range(100)]
    waits: list[float] = []
    monkeypatch.setattr(network, "CONNECT_SECONDS", 0.35)
    monkeypatch.setattr(network, "RETRY_DELAYS", ())
    monkeypatch.setattr(network.requests, "Session", lambda: NobodyThere(waits))
    start = time.monotonic()
    error = failure(lambda: fetch_bytes("https://example.org/x", rules))
    assert error.retryable
    assert time.monotonic() - start < 1
    assert 2 <= len(waits) <= 5
    assert waits[-1] < 0.35
