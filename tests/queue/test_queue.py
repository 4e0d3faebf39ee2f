"""Real worker processes under the real SDK, against a queue on loopback: each job once,
whatever happens.
"""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lab.queue.jobs import Job, State
from lab.queue.local_queue import LocalQueue
from lab.queue.workers import WorkerProcess, content_of
from schemas import JobOutput
from tests.queue.slow_bucket import SlowBucket

TINY = {
    "prompt": "a red circle",
    "num_frames": 4,
    "num_inference_steps": 2,
    "width": 64,
    "height": 64,
    "format": "gif",
}
SECONDS = {**TINY, "num_frames": 16, "num_inference_steps": 14}
"""One or two of GPU time, where the SDK's polls, up to one second apart, no longer
decide.
"""
LONG = {
    **TINY,
    "num_frames": 16,
    "num_inference_steps": 60,
    "width": 128,
    "height": 128,
}
"""Half a minute, in steps of about half a second."""
STAGED = Path(__file__).with_name("staged_handler.py")


@dataclass
class Service:
    """A queue with one worker, and what it was asked to do in one test."""

    queue: LocalQueue
    worker: WorkerProcess
    bucket: SlowBucket | None = None
    stages: Path = Path()
    began: float = field(default_factory=time.monotonic)

    def submit(self, *inputs: Any) -> list[str]:
        return [self.queue.submit(job_input) for job_input in inputs]

    def run(self, *inputs: Any, timeout: float = 60) -> list[Job]:
        return self.queue.wait(self.submit(*inputs), timeout)

    def check(self) -> None:
        """What must hold after every test."""
        assert self.worker.alive
        assert_orderly(self.queue, self.began)
        assert_one_at_a_time(self.worker)


def assert_orderly(queue: LocalQueue, since: float = 0.0) -> None:
    assert [call for call in queue.surplus_results() if call.began >= since] == []
    assert [call for call in queue.late_progress() if call.began >= since] == []
    for call in queue.of("result", "progress", "stream"):
        text = json.dumps(call.body)
        assert "Traceback" not in text
        assert ".py" not in text


def assert_one_at_a_time(worker: WorkerProcess) -> None:
    """By the order of its log's lines: every start is followed by the end of the same
    job.
    """
    spans = [(event.name, event.job) for event in worker.events("gpu_start", "gpu_end")]
    expected = [
        (name, job)
        for kind, job in spans
        if kind == "gpu_start"
        for name in ("gpu_start", "gpu_end")
    ]
    assert spans == expected[: len(spans)]


def error_of(job: Job) -> dict[str, Any]:
    assert job.state is State.FAILED
    assert isinstance(job.error, str)
    error = json.loads(job.error)
    assert error.keys() >= {"code", "message", "retryable"}
    return error


def assert_complete(job: Job) -> JobOutput:
    """Its output is one, and the file is what the output says."""
    assert job.state is State.COMPLETED
    output = JobOutput.model_validate(job.output)
    assert hashlib.sha256(content_of(job.output)).hexdigest() == output.sha256
    return output


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("plain")
    with LocalQueue() as queue, WorkerProcess(queue, folder, "plain") as worker:
        worker.ready()
        yield Service(queue, worker)


@pytest.fixture
def service(warm: Service) -> Iterator[Service]:
    """handler.py, without a bucket."""
    yield from one_test(Service(warm.queue, warm.worker))


@pytest.fixture(scope="module")
def warm_staged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("staged")
    with SlowBucket() as bucket, LocalQueue() as queue:
        env = {**bucket.environment, "STAGES_DIR": str(folder)}
        with WorkerProcess(queue, folder, "staged", env, STAGED) as worker:
            worker.ready()
            service = Service(queue, worker, bucket, folder)
            service.run(TINY)
            yield service


@pytest.fixture
def staged(warm_staged: Service) -> Iterator[Service]:
    """handler.py with phases that can be lengthened, and a bucket that can be slow."""
    yield from one_test(
        Service(
            warm_staged.queue,
            warm_staged.worker,
            warm_staged.bucket,
            warm_staged.stages,
        )
    )
    assert warm_staged.bucket is not None
    warm_staged.bucket.seconds = 0


def one_test(service: Service) -> Iterator[Service]:
    yield service
    service.queue.heal()
    for job in service.queue.jobs:
        service.queue.cancel(job.id)  # a failed test must not keep the next one waiting
    service.check()


def test_every_job_is_done_once(service: Service) -> None:
    jobs = service.run(*({**TINY, "seed": seed} for seed in range(20)))
    assert [len(job.workers) for job in jobs] == [1] * 20
    for seed, job in enumerate(jobs):
        assert assert_complete(job).seed == seed
        assert len(service.queue.of("result", job=job.id)) == 1
    assert not [call for call in service.queue.calls if call.status not in (200, 204)]


@pytest.mark.parametrize(
    ("job_input", "field"),
    [
        ({**TINY, "width": 513}, "width"),
        ({**TINY, "steps": 5}, "steps"),
        ({}, "prompt"),
        (None, "input"),
    ],
    ids=["width 513", "unknown field", "nothing", "null"],
)
def test_invalid_job_fails_with_a_code_and_the_next_one_completes(
    service: Service, job_input: Any, field: str
) -> None:
    failed, done = service.run(job_input, TINY)
    error = error_of(failed)
    assert (error["code"], error["field"], error["retryable"]) == (
        "INVALID_REQUEST",
        field,
        False,
    )
    assert not failed.stop_pod
    assert done.state is State.COMPLETED


def test_result_is_delivered_after_two_refusals(service: Service) -> None:
    service.queue.fail("result", 500, times=2)
    (job,) = service.run(TINY)
    assert job.state is State.COMPLETED
    assert [call.status for call in service.queue.of("result", job=job.id)] == [
        500,
        500,
        200,
    ]


@pytest.mark.parametrize("status", [404, 413])
def test_refused_result_does_not_harm_the_next_job(
    service: Service, status: int
) -> None:
    """Whether the refused one is told again, or in another way, is the worker's choice;
    that it lives is not.
    """
    service.queue.fail("result", status)
    (refused,) = service.submit(TINY)
    service.queue.until(
        lambda: service.queue.of("result", job=refused), 30, "a result to be refused"
    )
    assert [job.state for job in service.run(TINY, TINY)] == [State.COMPLETED] * 2


def test_progress_is_in_order_and_never_after_the_result(service: Service) -> None:
    """Updates take longer than the job goes on after the last of them: one that nobody
    waits for would be late.
    """
    seconds = 3.0
    service.queue.fail("progress", delay=seconds, times=100)
    (job,) = service.run({**SECONDS, "num_inference_steps": 40})
    assert job.state is State.COMPLETED
    time.sleep(seconds + 0.5)  # for what is under way
    reports = [call.body["output"] for call in service.queue.of("progress", job=job.id)]
    steps = [update["step"] for update in reports if "step" in update]
    assert steps
    assert steps == sorted(set(steps))
    assert service.queue.late_progress() == []


def test_gpu_is_busy_while_jobs_wait(service: Service) -> None:
    jobs = service.run(*[SECONDS] * 12, timeout=120)
    assert {job.state for job in jobs} == {State.COMPLETED}
    done = [
        service.worker.until_event("job_done", job=job.id, timeout=5) for job in jobs
    ]
    start = min(
        service.worker.until_event("gpu_start", job=job.id).time for job in jobs
    )
    end = max(service.worker.until_event("gpu_end", job=job.id).time for job in jobs)
    busy = sum(event.fields["gpu_seconds"] for event in done) / (end - start)
    print(f"GPU thread busy {busy:.1%} of {end - start:.1f} s")
    assert 0.9 < busy <= 1.01


def test_log_tells_each_job_s_way_and_no_prompt(service: Service) -> None:
    (job,) = service.run(TINY)
    done = service.worker.until_event("job_done", job=job.id, timeout=5)
    assert done.fields["gpu_seconds"] > 0
    assert done.fields["queue_seconds"] >= 0
    names = [event.name for event in service.worker.events(job=job.id)]
    assert [
        name
        for name in names
        if name in ("job_received", "gpu_start", "gpu_end", "job_done")
    ] == [
        "job_received",
        "gpu_start",
        "gpu_end",
        "job_done",
    ]
    assert service.worker.events("worker_ready")
    assert service.worker.unstructured == []
    assert TINY["prompt"] not in service.worker.log(last=10**7)


def test_cancel_in_the_queue(service: Service) -> None:
    *_, last = ids = service.submit(SECONDS, SECONDS, SECONDS, TINY)
    service.queue.cancel(last)
    jobs = service.queue.wait(ids, 60)
    assert [job.state for job in jobs] == [State.COMPLETED] * 3 + [State.CANCELLED]
    assert jobs[-1].workers == []


def test_cancel_while_it_waits_for_the_gpu(service: Service) -> None:
    first, second = service.submit({**SECONDS, "num_inference_steps": 40}, TINY)
    service.worker.until_event("gpu_start", job=first)
    service.worker.until_event("job_received", job=second)
    service.queue.cancel(second)
    assert service.queue.wait([first], 60)[0].state is State.COMPLETED
    assert service.run(TINY)[0].state is State.COMPLETED
    assert service.queue.of("result", "progress", job=second) == []
    assert service.worker.events("gpu_start", job=second) == []


def test_cancel_while_denoising_frees_the_gpu_within_two_steps(
    service: Service,
) -> None:
    (long,) = service.submit(LONG)
    start = service.worker.until_event("gpu_start", job=long)
    service.queue.until(lambda: service.queue.of("progress", job=long), 30, "progress")
    reports = service.queue.of("progress", job=long)[-1]
    step_seconds = (reports.began - start.time) / reports.body["output"]["step"]
    (after,) = service.submit(TINY)
    service.queue.cancel(long)
    begun = service.worker.until_event("gpu_start", job=after, timeout=20)
    heard = service.queue.of("stop", job=long)[-1].time
    assert begun.time - heard < 2 * step_seconds + 0.5
    assert service.queue.wait([after], 30)[0].state is State.COMPLETED
    service.worker.until_event("job_cancelled", job=long, timeout=5)
    assert service.queue.of("result", job=long) == []
    assert [
        call
        for call in service.queue.of("progress", job=long)
        if call.began > begun.time
    ] == []


@pytest.mark.parametrize("stage", ["prepare", "load", "decode", "write", "upload"])
def test_cancel_in_a_phase_that_has_no_steps(staged: Service, stage: str) -> None:
    """A phase that has the GPU is waited for; one that has not does not keep the next
    job from it.
    """
    seconds = 3.0
    if stage == "upload":
        assert staged.bucket is not None
        staged.bucket.seconds, uploads = seconds, len(staged.bucket.begun)
        (job,) = staged.submit(TINY)
        deadline = time.monotonic() + 30
        while len(staged.bucket.begun) == uploads:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        staged.bucket.seconds = 0
    else:
        (staged.stages / stage).write_text(str(seconds))
        (job,) = staged.submit(TINY)
        staged.worker.until_event("stage", since=staged.began, timeout=30)
    at = time.monotonic()
    (after,) = staged.submit(TINY)
    staged.queue.cancel(job)
    begun = staged.worker.until_event("gpu_start", job=after, timeout=30)
    assert begun.time - at < (seconds + 1.5 if stage in ("load", "decode") else 2.0)
    assert staged.queue.wait([after], 30)[0].state is State.COMPLETED
    time.sleep(
        max(0.0, at + seconds + 1 - time.monotonic())
    )  # for whatever would still come of the cancelled one
    assert staged.queue.of("result", job=job) == []


def test_unforeseen_error_is_internal_and_the_next_job_completes(
    staged: Service,
) -> None:
    (staged.stages / "load").write_text("ZeroDivisionError")
    (failed,) = staged.run(TINY)
    assert error_of(failed)["code"] == "INTERNAL"
    assert not failed.stop_pod
    assert staged.run(TINY)[0].state is State.COMPLETED


def test_worker_that_cannot_be_trusted_asks_for_its_end_and_takes_no_job(
    tmp_path: Path,
) -> None:
    with (
        LocalQueue() as queue,
        WorkerProcess(
            queue, tmp_path, "bad", {"STAGES_DIR": str(tmp_path)}, STAGED
        ) as worker,
    ):
        worker.ready()
        assert queue.wait([queue.submit(TINY)], 60)[0].state is State.COMPLETED
        (tmp_path / "load").write_text("EngineCorrupted")
        (failed,) = queue.wait([queue.submit(TINY)], 60)
        assert error_of(failed)["code"] == "ENGINE_CORRUPTED"
        assert failed.stop_pod
        later = queue.job(queue.submit(TINY))
        time.sleep(2 * queue.hold)
        assert later.state is not State.COMPLETED
        if later.state is State.FAILED:
            assert error_of(later)["retryable"]
            assert later.stop_pod
        assert worker.events("gpu_start", job=later.id) == []
        assert_orderly(queue)


def test_sigterm_finishes_what_runs_and_ends_with_0(tmp_path: Path) -> None:
    with (
        LocalQueue(dead_after=3) as queue,
        WorkerProcess(queue, tmp_path, "busy") as worker,
    ):
        worker.ready()
        running = queue.submit({**SECONDS, "num_inference_steps": 40})
        queue.until(lambda: queue.of("progress", job=running), 60, "the job to run")
        waiting = queue.submit(TINY)
        worker.terminate()
        assert worker.wait() == 0
        assert queue.job(running).state is State.COMPLETED
        queue.until(
            lambda: queue.job(waiting).state in (State.QUEUED, State.COMPLETED),
            10,
            "the other job: done or queued",
        )
        assert_orderly(queue)
        assert worker.events("shutdown")


def test_sigterm_while_idle_ends_with_0_and_loses_no_job(tmp_path: Path) -> None:
    """The open poll may still bring a job, which is then done here or left to another
    worker.
    """
    with (
        LocalQueue(dead_after=3) as queue,
        WorkerProcess(queue, tmp_path, "idle") as worker,
    ):
        worker.ready()
        assert queue.wait([queue.submit(TINY)], 60)[0].state is State.COMPLETED
        worker.terminate()
        late = queue.submit(TINY)
        assert worker.wait(timeout=queue.hold + 15) == 0
        queue.until(
            lambda: queue.job(late).state in (State.QUEUED, State.COMPLETED),
            10,
            "the late job: done or queued",
        )
        assert_orderly(queue)


def test_killed_worker_s_jobs_are_done_once_by_another(tmp_path: Path) -> None:
    inputs = {**SECONDS, "num_inference_steps": 20}
    with (
        LocalQueue(dead_after=3) as queue,
        WorkerProcess(queue, tmp_path, "a") as first,
        WorkerProcess(queue, tmp_path, "b") as second,
    ):
        for worker in (first, second):
            worker.ready()
        ids = [queue.submit(inputs) for _ in range(5)]
        queue.until(
            lambda: {call.worker for call in queue.of("progress")} == {"a", "b"},
            60,
            "both to be busy",
        )
        first.kill()
        lost = {
            job.id for job in queue.jobs if job.worker == "a" and not job.state.final
        }
        assert lost
        jobs = queue.wait(ids, 90)
        for job in jobs:
            assert_complete(job)
        assert set(queue.requeued) == lost
        assert {job.id: job.workers for job in jobs if job.id in lost} == {
            job_id: ["a", "b"] for job_id in lost
        }
        assert_orderly(queue)
        assert_one_at_a_time(second)
