"""The soak's own judge fails on a lost job, one answered twice, and on a leak; its
cases keep their shares.
"""

import hashlib
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from animatediff.serving.storage import safe_name
from lab.hostile.certificates import make_certificate
from lab.hostile.hosts import WAYS, Host
from lab.queue.jobs import Job, State
from lab.queue.local_queue import Call
from lab.soak.cases import OUTPUT, Case, Deck, Places, files, hostile, slow
from lab.soak.judge import MOST_GROWTH, Evidence, answer_of, failures, lives_of
from lab.soak.vitals import Vitals, children_of, lives, measure

REST = Vitals(jobs=10, memory=500_000_000, threads=12, children=1, files=20)
PLACES = Places("https://127.0.0.1:1")


def _result(job: str, status: int = 200) -> Call:
    return Call("result", "w1", (job,), status, 0.0, 0.0)


def _failed(code: str) -> str:
    return json.dumps({"code": code, "message": "m", "retryable": False})


@pytest.fixture
def good(tmp_path: Path) -> Evidence:
    """A clip and a refusal, each answered once, and a life that ends as it began."""
    clip = tmp_path / "a-1.gif"
    clip.write_bytes(b"clip")
    digest = hashlib.sha256(b"clip").hexdigest()
    output = {"url": clip.as_uri(), "sha256": digest}
    done = Job("a", {}, 0.0, state=State.COMPLETED, output=output)
    refused = Job("b", {}, 0.0, state=State.FAILED, error=_failed("INVALID_REQUEST"))
    return Evidence(
        jobs=[done, refused],
        results=[_result("a"), _result("b", 500), _result("b")],
        cases={
            "a": Case("plain", "plain", {}, OUTPUT),
            "b": Case("hostile", "x", {}, "INVALID_REQUEST"),
        },
        lives=lives_of({"w1": [REST, replace(REST, jobs=90)]}),
        files=["a-1.gif"],
    )


def test_a_good_run_has_no_failure(good: Evidence) -> None:
    assert failures(good) == {}


def _with_state(state: State) -> Callable[[Evidence], Evidence]:
    return lambda good: replace(
        good, jobs=[replace(good.jobs[0], state=state), good.jobs[1]]
    )


def _with_error(error: str) -> Callable[[Evidence], Evidence]:
    return lambda good: replace(
        good, jobs=[good.jobs[0], replace(good.jobs[1], error=error)]
    )


def _ending_with(**more: int) -> Callable[[Evidence], Evidence]:
    end = replace(REST, jobs=90, **more)
    return lambda good: replace(good, lives=lives_of({"w1": [REST, end]}))


def _without_output_hash(good: Evidence) -> Evidence:
    output = {**good.jobs[0].output, "sha256": "0" * 64}
    return replace(good, jobs=[replace(good.jobs[0], output=output), good.jobs[1]])


TWICE = "answered twice"
OTHER = "with another answer than expected"
BREACHES: Mapping[str, tuple[Callable[[Evidence], Evidence], str]] = {
    "waits for ever": (_with_state(State.QUEUED), "lost"),
    "never answered": (_with_state(State.IN_PROGRESS), "lost"),
    "cancelled by nobody": (_with_state(State.CANCELLED), OTHER),
    "no result came": (
        lambda good: replace(good, results=good.results[1:]),
        "without a result",
    ),
    "two results": (
        lambda good: replace(good, results=[*good.results, _result("a")]),
        TWICE,
    ),
    "two results of a refused job": (
        lambda good: replace(good, results=[*good.results, _result("b")]),
        TWICE,
    ),
    "another code": (_with_error(_failed("INTERNAL")), OTHER),
    "no code": (_with_error("Traceback"), OTHER),
    "no file": (lambda good: replace(good, files=[]), "with not one file"),
    "two files": (
        lambda good: replace(good, files=["a-1.gif", "a-2.gif"]),
        "with not one file",
    ),
    "another file": (_without_output_hash, "with another file than in the output"),
    "late progress": (
        lambda good: replace(good, late=[_result("a")]),
        "with progress after the result",
    ),
    "a worker ended": (
        lambda good: replace(good, died=["w1"]),
        "workers that ended by themselves",
    ),
    "an orphan": (
        lambda good: replace(good, orphans=["w2"]),
        "children left by killed workers",
    ),
    "a thread more": (_ending_with(threads=13), "workers with more threads"),
    "a child more": (_ending_with(children=2), "workers with more children"),
    "seven files more": (_ending_with(files=27), "workers with more files"),
    "memory": (
        _ending_with(memory=REST.memory + 81 * MOST_GROWTH),
        "workers with growing memory",
    ),
}


@pytest.mark.parametrize("name", BREACHES)
def test_each_breach_is_a_failure(good: Evidence, name: str) -> None:
    breach, failure = BREACHES[name]
    assert failure in failures(breach(good))


def test_what_is_within_the_bounds_is_no_failure(good: Evidence) -> None:
    less = _ending_with(threads=11, files=26, memory=REST.memory + 79 * MOST_GROWTH)
    assert failures(less(good)) == {}


def test_a_life_counts_from_its_first_warm_rest_on() -> None:
    cold, late = replace(REST, jobs=2, threads=3), replace(REST, jobs=70)
    (life,) = lives_of({"w1": [cold, REST, late], "w2": [REST], "w3": [cold, REST]})
    assert (life.name, life.span, life.growth("threads")) == ("w1", 60, 0)
    (brief,) = lives_of({"w1": [REST, replace(REST, jobs=60, memory=10**12)]})
    assert brief.slope is None


def test_one_odd_rest_is_no_slope() -> None:
    rests = [replace(REST, jobs=jobs) for jobs in range(10, 100, 10)]
    rests[4] = replace(rests[4], memory=10**9)
    (life,) = lives_of({"w1": rests})
    assert life.slope == 0


@pytest.mark.parametrize(("jobs", "share"), [(7, 1), (60, 3), (100, 5)])
def test_a_block_has_its_shares(jobs: int, share: int) -> None:
    deck = Deck(random.Random(1), PLACES, slow=5, hostile=5)
    kinds = [case.kind for case in deck.block(jobs)]
    assert [kinds.count(kind) for kind in ("slow", "hostile")] == [share, share]
    assert len(kinds) == jobs


def test_no_slow_and_hostile_jobs_on_demand() -> None:
    deck = Deck(random.Random(1), PLACES, slow=0, hostile=0)
    assert {case.kind for case in deck.block(50)} == {"plain"}


@pytest.mark.parametrize("make", [slow, hostile])
def test_every_case_comes_before_one_comes_again(
    make: Callable[[int, Places], Iterator[Case]],
) -> None:
    deck = Deck(random.Random(1), PLACES, slow=50, hostile=50)
    cases = list(make(0, PLACES))
    names = sorted(case.name for case in cases)
    dealt: list[Case] = []
    while len(dealt) < 2 * len(cases):  # a block of two has one case of each kind
        dealt += [case for case in deck.block(2) if case.kind == cases[0].kind]
    for part in (dealt[: len(cases)], dealt[len(cases) :]):
        assert sorted(case.name for case in part) == names
    odd = [case.id for case in dealt if case.id is not None]
    assert len(odd) == len(set(map(safe_name, odd)))  # of their files


def test_answers_by_name() -> None:
    retryable = {"code": "ASSET_UNAVAILABLE", "retryable": True}
    failed = Job("a", {}, 0.0, state=State.FAILED, error=json.dumps(retryable))
    assert answer_of(failed) == "ASSET_UNAVAILABLE (retryable)"
    assert answer_of(replace(failed, error=None)) == "an error without a code"
    assert answer_of(replace(failed, state=State.QUEUED)) == "IN_QUEUE"


def test_vitals_show_a_thread_a_child_and_a_file() -> None:
    before = measure(os.getpid(), 0)
    assert before is not None
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    command = [sys.executable, "-c", "input()"]
    with (
        Path(__file__).open() as _,
        subprocess.Popen(command, stdin=subprocess.PIPE) as process,
    ):
        after = measure(os.getpid(), 0)
        (child,) = [c for c in children_of(os.getpid()) if c[0] == process.pid]
        assert lives(child)
        process.communicate(b"\n")
    over.set()
    thread.join()
    assert after is not None
    assert after.threads == before.threads + 1
    assert after.children == before.children + 1
    assert after.files == before.files + 2  # the file and the pipe
    assert after.exceeds(before)
    assert not before.exceeds(after)
    assert not lives(child)
    assert measure(process.pid, 0) is None


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


def _status(url: str, certificate: Path) -> int | None:
    """The status of the answer; None if none comes."""
    options: dict[str, Any] = {"verify": str(certificate), "timeout": 0.3}
    try:
        with requests.get(url, stream=True, allow_redirects=False, **options) as got:
            return got.status_code
    except requests.Timeout:
        return None


def test_the_host_gives_files_and_wastes_time(certificate: Path) -> None:
    with Host({"a": b"content"}, certificate) as host:
        got = {way: _status(f"{host.url}/{way}/a", certificate) for way in WAYS}
        url = f"{host.url}/whole/a"
        whole = requests.get(url, verify=str(certificate), timeout=5)
    assert whole.content == b"content"
    assert [way for way, status in got.items() if status is None] == [
        "slow-headers",
        "silent",
    ]
    assert got["round"] == 302


def test_files_of_the_host_are_hostile_but_for_one() -> None:
    assert len(files()) > 40
    assert all(files().values())
