import asyncio
import json
import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest

from animatediff.errors import AssetError
from animatediff.serving.progress import Report
from animatediff.serving.worker import Worker


def silent(_job: Mapping[str, Any]) -> Report:
    return lambda _step, _total: None


def test_error_is_text_for_the_sdk() -> None:
    worker = Worker(lambda _j, _r, _c: {"error": {"code": "X"}, "refresh_worker": True}, silent)
    answer = asyncio.run(worker({"id": "a"}))
    assert json.loads(answer.pop("error")) == {"code": "X"}
    assert answer == {"refresh_worker": True}


def test_event_loop_goes_on_while_a_job_runs() -> None:
    worker = Worker(lambda _j, _r, _c: time.sleep(0.3) or {"ok": 1}, silent)

    async def both() -> int:
        ticks = 0
        job = asyncio.create_task(worker({"id": "a"}))
        while not job.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return ticks

    assert asyncio.run(both()) > 5


def test_cancelled_job_is_told_and_waited_for() -> None:
    events = []

    def run(job: Mapping[str, Any], _report: Report, cancelled: threading.Event) -> dict[str, Any]:
        events.append(f"start {job['id']}")
        cancelled.wait(2 if job["id"] == "a" else 0)
        time.sleep(0.05)
        events.append(f"end {job['id']}")
        return {}

    worker = Worker(run, silent)

    async def cancel_then_next() -> None:
        first = asyncio.create_task(worker({"id": "a"}))
        await asyncio.sleep(0.05)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        events.append("cancelled")
        await worker({"id": "b"})

    start = time.monotonic()
    asyncio.run(cancel_then_next())
    assert time.monotonic() - start < 1.5
    assert events == ["start a", "end a", "cancelled", "start b", "end b"]


def test_jobs_never_overlap() -> None:
    running: list[int] = []

    def run(_job: Mapping[str, Any], _report: Report, _cancelled: threading.Event) -> dict[str, Any]:
        running.append(1)
        assert len(running) == 1
        time.sleep(0.02)
        running.pop()
        return {"ok": True}

    worker = Worker(run, silent)

    async def many() -> list[dict]:
        return await asyncio.gather(*(worker({"id": str(i)}) for i in range(5)))

    assert asyncio.run(many()) == [{"ok": True}] * 5


def test_models_are_loaded_before_the_first_job_and_a_failure_is_only_logged(caplog) -> None:
    events = []

    def warm() -> None:
        events.append("warm")
        raise AssetError("no model is installed")

    def run(*_: Any) -> dict[str, Any]:
        events.append("job")
        return {}

    asyncio.run(Worker(run, silent, warm)({"id": "a"}))
    assert events == ["warm", "job"]
    assert "no model is installed" in caplog.text
