"""The worker: stages on their threads, cancellation, one job on the device."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from animatediff.deadline import Deadline
from animatediff.errors import AssetError, DeviceFailed
from animatediff.progress import Progress, Report
from animatediff.serving import worker as worker_module
from animatediff.serving.job import WorkerStatus
from animatediff.serving.worker import Worker

pytestmark = pytest.mark.slow

Stage = Callable[[], Any]


class Stages:
    """A JobRunner whose stages are functions of the job's id and cancel event."""

    def __init__(
        self, limit: float | None, **stages: Callable[[str, threading.Event], Any]
    ) -> None:
        self.limit = limit
        self.stopped = threading.Event()
        self._stages = stages
        self.status = WorkerStatus()

    def start(
        self, job: Mapping[str, Any], _report: Report, cancelled: threading.Event
    ) -> Any:
        deadline = Deadline(self.limit, cancelled=cancelled, stopped=self.stopped)

        def stage(name: str) -> Stage:
            run = self._stages.get(
                name, lambda _id, _cancelled: {} if name == "finish" else None
            )

            def counted() -> Any:
                with deadline.phase(name):
                    return run(job["id"], cancelled)

            return counted

        return SimpleNamespace(
            id=job["id"],
            deadline=deadline,
            late_answer=lambda: {"error": cast(Any, deadline.reason()).to_dict()},
            **{name: stage(name) for name in ("prepare", "generate", "finish")},
        )


class Silent:
    def __init__(self, _job: object = None) -> None:
        self.closed = False

    def __call__(self, _progress: Progress, /) -> None: ...

    def close(self) -> None:
        self.closed = True


def worker(
    progress: Callable[..., Any] = Silent,
    warm: Any = None,
    limit: Any = None,
    **stages: Any,
) -> Worker:
    return Worker(cast(Any, Stages(limit, **stages)), progress, warm, concurrency=1)


def test_error_is_text_for_the_sdk() -> None:
    for name in ("prepare", "generate", "finish"):
        failing = worker(
            **{name: lambda _i, _c: {"error": {"code": "X"}, "refresh_worker": True}}
        )
        answer = asyncio.run(failing({"id": "a"}))
        assert json.loads(answer.pop("error")) == {"code": "X"}
        assert answer == {"refresh_worker": True}


def test_event_loop_goes_on_while_a_job_runs() -> None:
    slow = worker(generate=lambda _i, _c: time.sleep(0.3))

    async def both() -> int:
        ticks = 0
        job = asyncio.create_task(slow({"id": "a"}))
        while not job.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return ticks

    assert asyncio.run(both()) > 5


def test_a_cancelled_job_is_asked_to_stop_and_the_device_waited_for() -> None:
    events = []

    def generate(name: str, cancelled: threading.Event) -> None:
        events.append(f"start {name}")
        cancelled.wait(2 if name == "a" else 0)
        time.sleep(0.05)
        events.append(f"end {name}")

    both = worker(generate=generate)

    async def cancel_then_next() -> None:
        first = asyncio.create_task(both({"id": "a"}))
        await asyncio.sleep(0.1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        events.append("cancelled")
        await both({"id": "b"})

    asyncio.run(cancel_then_next())
    assert events == ["start a", "end a", "cancelled", "start b", "end b"]


def test_a_job_cancelled_while_it_waits_for_the_device_never_gets_there() -> None:
    seen = []
    busy = worker(
        generate=lambda name, _c: (seen.append(name), time.sleep(0.2))[2:] or None
    )

    async def cancel_second() -> None:
        first = asyncio.create_task(busy({"id": "a"}))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(busy({"id": "b"}))
        await asyncio.sleep(0.05)
        second.cancel()
        start = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert not first.done()
        assert time.monotonic() - start < 0.1
        await first

    asyncio.run(cancel_second())
    assert seen == ["a"]


@pytest.mark.parametrize("stage", ["prepare", "finish"])
def test_a_cancel_off_the_device_does_not_wait(stage: str) -> None:
    asked_to_stop = threading.Event()

    def slow(_name: str, cancelled: threading.Event) -> dict:
        if cancelled.wait(5):
            asked_to_stop.set()
        time.sleep(0.5)
        return {}

    job_worker = worker(**{stage: slow})

    async def cancel() -> float:
        job = asyncio.create_task(job_worker({"id": "a"}))
        await asyncio.sleep(0.1)
        job.cancel()
        start = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await job
        return time.monotonic() - start

    waited = asyncio.run(cancel())
    assert asked_to_stop.wait(1)
    assert waited < 0.4


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK_SECONDS", "LATE_SECONDS", "STUCK_SECONDS"):
        monkeypatch.setattr(worker_module, name, 0.1)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("stage", ["prepare", "generate", "finish"])
def test_a_stage_that_hangs_ends_at_the_limit_and_gives_its_thread_back(
    stage: str,
) -> None:
    """It blocks, for instance in a read from a disk that does not answer."""
    go_on = threading.Event()

    def hangs(name: str, _cancelled: threading.Event) -> Any:
        if name.startswith("slow"):
            go_on.wait(20)
        return {} if stage == "finish" else None

    job_worker = worker(limit=0.2, **{stage: hangs})

    async def all_jobs() -> tuple[list[dict], dict]:
        slow = [await job_worker({"id": f"slow {i}"}) for i in range(3)]
        return slow, await job_worker({"id": "next"})

    start = time.monotonic()
    slow, after = asyncio.run(all_jobs())
    errors = [json.loads(answer["error"]) for answer in slow]
    assert [error["code"] for error in errors] == ["TIMED_OUT"] * 3
    assert {error["phase"] for error in errors} == {stage}
    assert time.monotonic() - start < 5
    status = cast(Any, job_worker)._runner.status
    if stage == "generate":  # a real runner refuses the next jobs
        assert "does not leave the device" in status.fatal.message
    else:
        assert status.fatal is None
    assert after == {}
    go_on.set()


@pytest.mark.usefixtures("impatient")
def test_cancelled_jobs_that_hang_do_not_use_up_the_threads() -> None:
    go_on = threading.Event()

    def hangs(name: str, _cancelled: threading.Event) -> None:
        if name != "next":
            go_on.wait(20)

    job_worker = worker(prepare=hangs)

    async def cancel_many() -> dict:
        for i in range(6):
            job = asyncio.create_task(job_worker({"id": str(i)}))
            await asyncio.sleep(0.02)
            job.cancel()
            await asyncio.wait([job])
        return await asyncio.wait_for(job_worker({"id": "next"}), 2)

    assert asyncio.run(cancel_many()) == {}
    go_on.set()


@pytest.mark.usefixtures("impatient")
def test_jobs_that_run_or_wait_are_answered_when_the_worker_is_stopped() -> None:
    go_on = threading.Event()
    job_worker = worker(generate=lambda _i, _c: go_on.wait(20) and None)
    runner = cast(Any, job_worker)._runner

    async def stop() -> list[dict]:
        jobs = [asyncio.create_task(job_worker({"id": str(i)})) for i in range(3)]
        await asyncio.sleep(0.1)
        runner.stopped.set()
        return await asyncio.wait_for(asyncio.gather(*jobs), 5)

    for answer in asyncio.run(stop()):
        error = json.loads(answer["error"])
        assert (error["code"], error["retryable"]) == ("WORKER_STOPPED", True)
    go_on.set()


def test_jobs_overlap_off_the_device_and_never_on_it() -> None:
    on_device: list[int] = []
    preparing: list[int] = []
    most = [0]
    lock = threading.Lock()

    def prepare(*_: Any) -> None:
        with lock:
            preparing.append(1)
            most[0] = max(most[0], len(preparing))
        time.sleep(0.05)
        preparing.pop()

    def generate(*_: Any) -> None:
        on_device.append(1)
        assert len(on_device) == 1
        time.sleep(0.02)
        on_device.pop()

    many_jobs = worker(prepare=prepare, generate=generate)

    async def many() -> list[dict]:
        return await asyncio.gather(*(many_jobs({"id": str(i)}) for i in range(5)))

    assert asyncio.run(many()) == [{}] * 5
    assert most[0] > 1


def test_progress_is_closed_before_the_answer() -> None:
    made: list[Silent] = []

    def progress(_job: Mapping[str, Any]) -> Silent:
        made.append(Silent())
        return made[-1]

    asyncio.run(worker(progress)({"id": "a"}))
    assert [silent.closed for silent in made] == [True]


def test_models_are_loaded_before_the_first_job_and_a_failure_is_only_logged(
    caplog,
) -> None:
    events = []

    def warm() -> None:
        events.append("warm")
        raise AssetError("no model is installed")

    asyncio.run(
        worker(warm=warm, generate=lambda _i, _c: events.append("job"))({"id": "a"})
    )
    assert events == ["warm", "job"]
    assert "no model is installed" in str(
        [record.__dict__.get("fields") for record in caplog.records]
    )


def test_a_device_that_fails_while_models_load_ends_the_worker() -> None:
    def warm() -> None:
        raise DeviceFailed("the device reported an error")

    broken = worker(warm=warm)
    asyncio.run(broken({"id": "a"}))
    runner = cast(Any, broken)._runner
    assert "has to be replaced" in runner.status.fatal.message
