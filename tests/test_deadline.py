"""A clock of own work that ends a job: limits, waiting, cancels, the worker's end."""

import threading
from concurrent.futures import Future

import pytest

from animatediff.deadline import Deadline
from animatediff.errors import JobCancelled, JobTimedOut, WorkerStopped


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def deadline(clock: Clock) -> Deadline:
    return Deadline(4.0, clock=clock)


def test_only_own_work_counts(deadline: Deadline, clock: Clock) -> None:
    clock.now += 50
    with deadline.phase("prepare"):
        clock.now += 1
        with deadline.waiting():
            clock.now += 70
        with deadline.phase("download"):
            clock.now += 2
        clock.now += 0.5
    clock.now += 90
    assert deadline.seconds() == {"prepare": 1.5, "download": 2.0}
    assert deadline.remaining() == 0.5
    deadline.check()


@pytest.mark.parametrize(
    ("phase", "retryable"), [("download", True), ("store", True), ("denoise", False)]
)
def test_the_error_names_the_phase_that_used_the_limit(
    phase: str, retryable: bool, deadline: Deadline, clock: Clock
) -> None:
    with deadline.phase(phase):
        clock.now += 3.5
    with deadline.phase("write"):
        clock.now += 0.6
        with pytest.raises(JobTimedOut) as caught:
            deadline.check()
    assert f"3.5 s of it were in the phase {phase}" in caught.value.message
    assert caught.value.details == {"limit": 4.0, "phase": phase}
    assert caught.value.retryable is retryable


def test_no_limit_is_none(clock: Clock) -> None:
    deadline = Deadline(clock=clock)
    with deadline.phase("denoise"):
        clock.now += 1e9
        deadline.check()
    assert deadline.remaining() is None


def test_a_cancel_and_the_worker_s_end() -> None:
    stopped, cancelled = threading.Event(), threading.Event()
    deadline = Deadline(cancelled=cancelled, stopped=stopped)
    deadline.check()
    stopped.set()
    with pytest.raises(WorkerStopped) as caught:
        deadline.check()
    assert caught.value.retryable
    deadline.cancel()
    assert cancelled.is_set()
    with pytest.raises(JobCancelled):
        deadline.check()


def test_a_result_is_waited_for_until_the_job_ends() -> None:
    done: Future[int] = Future()
    done.set_result(3)
    assert Deadline(4.0).result(done) == 3
    failed: Future[int] = Future()
    failed.set_exception(KeyError("x"))
    with pytest.raises(KeyError):
        Deadline().result(failed)
    deadline = Deadline(0.05)
    with deadline.phase("hash"), pytest.raises(JobTimedOut):
        deadline.result(Future())


def test_waiting_for_a_lock_is_no_work_and_ends_with_the_job() -> None:
    lock, deadline = threading.Lock(), Deadline(1000)
    with deadline.phase("load"), deadline.holding(lock):
        assert lock.locked()
    assert not lock.locked()
    before = deadline.used()
    threading.Timer(0.15, deadline.cancel).start()
    with (
        lock,
        deadline.phase("load"),
        pytest.raises(JobCancelled),
        deadline.holding(lock),
    ):
        raise AssertionError
    assert deadline.used() - before < 0.1
    assert not lock.locked()
