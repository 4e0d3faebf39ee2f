"""The table of a soak."""

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence

from lab.queue.local_queue import Job, State
from lab.soak.cases import OUTPUT
from lab.soak.judge import MOST_GROWTH, SPAN, Evidence, Life, answer_of, failures
from lab.soak.run import Soak, worker_seconds

FAILED = "FAILED"
"""Begins the lines that are failures."""


def evidence_of(soak: Soak, lives: Sequence[Life], files: list[str] | None) -> Evidence:
    """Return what is known of a run. ``files``: names of all stored files."""
    queue = soak.queue
    return Evidence(
        jobs=queue.jobs,
        results=queue.of("result"),
        cases=soak.cases,
        lives=lives,
        files=files,
        late=queue.late_progress(),
        died=soak.died,
        orphans=soak.orphans(),
    )


def report(soak: Soak, evidence: Evidence) -> Iterator[str]:
    """Yield the lines of the table. Lines of failures begin with FAILED."""
    jobs, requeued = evidence.jobs, len(soak.queue.requeued)
    once = sum(times == 1 for times in evidence.counts().values())
    files = sum(number == 1 for number in evidence.stored().values())
    yield _row("jobs", f"{len(jobs)}, {once} of them answered once")
    yield _row("clips", f"{files} with one file each")
    yield _row("killed workers", f"{len(soak.killed)}, {requeued} jobs handed on")
    yield from answers(soak, evidence)
    yield from throughput(soak, evidence.of(State.COMPLETED))
    yield from held(evidence.lives)
    for name, cases in failures(evidence).items():
        yield f"{FAILED} {len(cases)} {name}: {'; '.join(cases[:5])}"


def _row(name: str, text: str) -> str:
    return f"{name:26}{text}"


def answers(soak: Soak, evidence: Evidence) -> Iterator[str]:
    """Yield the number of each answer, and the seconds at a worker, by kind of job."""
    for kind in ("plain", "slow", "hostile"):
        jobs = [job for job in evidence.jobs if soak.cases[job.id].kind == kind]
        counts = Counter(answer_of(job) for job in jobs)
        for code, times in counts.most_common():
            seconds = [
                worker_seconds(soak, job) for job in jobs if answer_of(job) == code
            ]
            span = f"{statistics.median(seconds):.1f} s, at most {max(seconds):.1f} s"
            yield _row(f"{kind} jobs", f"{times:5} {code:32} {span}")


def throughput(soak: Soak, completed: Sequence[Job]) -> Iterator[str]:
    """Yield jobs a minute, and seconds of a job on the device and beside it."""
    wall = max((job.ended or 0.0 for job in completed), default=soak.began) - soak.began
    rate = 60 * len(soak.cases) / wall if wall else 0
    yield _row("throughput", f"{rate:.1f} jobs a minute, {wall:.0f} s in all")
    timings = [job.output["timings"] for job in completed]
    if timings:
        device = statistics.median(each["gpu"] for each in timings)
        rests = [each["total"] - each["gpu"] - each["queue"] for each in timings]
        yield _row(
            f"seconds of a job's {OUTPUT}",
            f"{device:.2f} on the device; without it {statistics.median(rests):.2f},"
            f" at most {max(rests):.2f} (median)",
        )


def held(lives: Sequence[Life]) -> Iterator[str]:
    """Yield what each worker held at its first rest and at its last."""
    for life in lives:
        first, last = life.rests[0], life.rests[-1]
        yield _row(
            f"{life.name}, {life.span} jobs",
            f"{first.memory / 1e6:.0f} -> {last.memory / 1e6:.0f} MB ({_slope(life)}),"
            f" threads {first.threads} -> {last.threads},"
            f" children {first.children} -> {last.children},"
            f" files {first.files} -> {last.files}",
        )


def _slope(life: Life) -> str:
    if life.slope is None:
        return f"slope not judged: fewer than {SPAN} jobs"
    most = MOST_GROWTH / 1000
    return f"{life.slope / 1000:+.0f} kB a job, {most:.0f} allowed"
