"""Find what went wrong in a soak."""

import json
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations

from animatediff.serving.storage import safe_name
from lab.queue.local_queue import Call, Job, State
from lab.queue.workers import content_of
from lab.soak.cases import AGAIN, OUTPUT, Case
from lab.soak.vitals import Vitals

WARM = 8
"""Jobs of a worker's life after which its first rest counts."""
SPAN = 60
"""Jobs between the first and the last rest without which no slope is judged."""
MOST_GROWTH = 100_000
"""Bytes of memory that a worker may gain with a job, after it is warm."""

MOST_MORE: Mapping[str, int] = {"threads": 0, "children": 0, "files": 6}
"""How much more a worker may hold at the end than after warm-up. The weight files of
the last job, and connections that are kept for a while, are open files."""


@dataclass(frozen=True)
class Life:
    """The rests of one worker, from the first one on after which it is warm."""

    name: str
    rests: Sequence[Vitals]

    @property
    def span(self) -> int:
        """The jobs between the first rest and the last."""
        return self.rests[-1].jobs - self.rests[0].jobs

    @property
    def slope(self) -> float | None:
        """Bytes that a job adds: the median of the slopes between any two rests."""
        pairs = combinations(self.rests, 2)
        slopes = [
            (late.memory - early.memory) / (late.jobs - early.jobs)
            for early, late in pairs
            if late.jobs > early.jobs
        ]
        return statistics.median(slopes) if slopes and self.span >= SPAN else None

    def growth(self, name: str) -> int:
        """Return how much more of ``name`` there is at the end than after warm-up."""
        return getattr(self.rests[-1], name) - getattr(self.rests[0], name)


def lives_of(rests: Mapping[str, Sequence[Vitals]]) -> list[Life]:
    """Return the lives in which a worker rested twice or more after it was warm."""
    warm = {
        name: [vitals for vitals in row if vitals.jobs >= WARM]
        for name, row in rests.items()
    }
    return [Life(name, row) for name, row in warm.items() if len(row) > 1]


@dataclass(frozen=True)
class Evidence:
    """What is known at the end of a run.

    ``results``: the calls that brought results. ``cases``: by job. ``files``: names of
    all stored files; None if files are in the answers. ``late``: progress after a
    result. ``died``: workers that ended by themselves. ``orphans``: children of killed
    workers that live on.
    """

    jobs: Sequence[Job]
    results: Sequence[Call]
    cases: Mapping[str, Case]
    lives: Sequence[Life] = ()
    files: Sequence[str] | None = None
    late: Sequence[Call] = ()
    died: Sequence[str] = ()
    orphans: Sequence[str] = ()

    def of(self, state: State) -> list[Job]:
        """Return the jobs in this state."""
        return [job for job in self.jobs if job.state is state]

    def counts(self) -> Counter[str]:
        """Count the results of each job that the queue accepted."""
        counts: Counter[str] = Counter({job.id: 0 for job in self.jobs})
        for call in self.results:
            if call.status == 200:
                counts.update(call.jobs)
        return counts

    def stored(self) -> dict[str, int]:
        """Count the files of each completed job."""
        ids = [job.id for job in self.of(State.COMPLETED)]
        if self.files is None:
            return dict.fromkeys(ids, 1)
        starts = {job: f"{safe_name(job)}-" for job in ids}
        names = self.files
        return {
            job: sum(name.startswith(start) for name in names)
            for job, start in starts.items()
        }


def answer_of(job: Job) -> str:
    """Return OUTPUT, the code of the error, or how a job ended without any."""
    if job.state is State.COMPLETED:
        return OUTPUT
    if job.state is not State.FAILED:
        return str(job.state)
    try:
        error = json.loads(job.error or "")
        return error["code"] + (AGAIN if error["retryable"] else "")
    except (ValueError, TypeError, KeyError):
        return "an error without a code"


def failures(evidence: Evidence) -> dict[str, list[str]]:
    """Return the jobs or workers of each failure, by its name; none is good."""
    failed = _failed_jobs(evidence) | _failed_workers(evidence)
    return {name: each for name, each in failed.items() if each}


def _failed_jobs(evidence: Evidence) -> dict[str, list[str]]:
    counts = evidence.counts()
    final = [job for job in evidence.jobs if job.state.final]
    return {
        "lost": [job.id for job in evidence.jobs if not job.state.final],
        "without a result": [job.id for job in final if not counts[job.id]],
        "answered twice": [job for job, times in counts.items() if times > 1],
        "with another answer than expected": list(_wrong_answers(evidence, final)),
        "with not one file": _not_one(evidence.stored()),
        "with another file than in the output": _damaged(evidence),
        "with progress after the result": [call.jobs[0] for call in evidence.late],
    }


def _failed_workers(evidence: Evidence) -> dict[str, list[str]]:
    lives = evidence.lives
    grown = {
        f"workers with more {name}": list(_grown(lives, name)) for name in MOST_MORE
    }
    return grown | {
        "workers that ended by themselves": list(evidence.died),
        "children left by killed workers": list(evidence.orphans),
        "workers with growing memory": [
            f"{life.name}: {life.slope / 1000:.0f} kB a job over {life.span} jobs"
            for life in lives
            if life.slope is not None and life.slope > MOST_GROWTH
        ],
    }


def _wrong_answers(evidence: Evidence, final: Sequence[Job]) -> Iterator[str]:
    for job in final:
        case, answer = evidence.cases[job.id], answer_of(job)
        if answer != case.answer:
            yield f"{job.id}, {case.name}: {answer} for {case.answer} ({job.error})"


def _not_one(files: Mapping[str, int]) -> list[str]:
    return [f"{job}: {count}" for job, count in files.items() if count != 1]


def _damaged(evidence: Evidence) -> list[str]:
    return [job.id for job in evidence.of(State.COMPLETED) if is_damaged(job)]


def is_damaged(job: Job) -> bool:
    """Return whether a completed job's file has another hash than its output."""
    digest = sha256(content_of(job.output))
    return digest.hexdigest() != job.output["sha256"]


def _grown(lives: Sequence[Life], name: str) -> Iterator[str]:
    for life in lives:
        if life.growth(name) > MOST_MORE[name]:
            first, last = life.rests[0], life.rests[-1]
            yield (
                f"{life.name}: {getattr(first, name)} -> {getattr(last, name)}"
                f" over {life.span} jobs"
            )
