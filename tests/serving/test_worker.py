"""The worker: stages on their threads, cancellation, one job on the device."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from animatediff.errors import AssetError, DeviceFailed
from animatediff.progress import Progress, Report
from animatediff.serving.job import WorkerStatus
from animatediff.serving.worker import Worker

Stage = Callable[[], Any]


class Stages:
    """A JobRunner whose stages are functions of the job's id and cancel event."""

    def __init__(self, **stages: Callable[[str, threading.Event], Any]) -> None:
        self._stages = stages
        self.status = WorkerStatus()

    def start(
        self, job: Mapping[str, Any], _report: Report, cancelled: threading.Event
    ) -> Any:
        def stage(name: str) -> Stage:
            run = self._stages.get(
                name, lambda _id, _cancelled: {} if name == "finish" else None
            )
            return lambda: run(job["id"], cancelled)

        return SimpleNamespace(
            id=job["id"],
            **{name: stage(name) for name in ("prepare", "generate", "finish")},
        )


class Silent:
    def __init__(self, _job: object = None) -> None:
        self.closed = False

    def __call__(self, _progress: Progress, /) -> None: ...

    def close(self) -> None:
        self.closed = True


def worker(
    progress: Callable[..., Any] = Silent, warm: Any = None, **stages: Any
) -> Worker:
    return Worker(cast(Any, Stages(**stages)), progress, warm)


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
