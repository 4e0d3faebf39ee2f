"""Drive a queue with jobs, and workers of which some are killed while busy."""

import random
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from lab.queue.local_queue import Job, LocalQueue, State
from lab.queue.workers import WorkerProcess
from lab.soak.cases import BLOCK, Case, Deck
from lab.soak.vitals import Child, Vitals, children_of, lives, measure

WINDOW = 200
"""Jobs at the end, during which no worker is killed."""
STALLED = 180.0
"""Seconds without any job ending, after which the remaining jobs count as lost."""
BACKLOG = 6
"""Jobs for each worker that wait or run."""
SETTLE_SECONDS = 3.0
LOOSE_SECONDS = 15.0
"""Seconds at rest after which a worker may hold no more than at its first rest."""


@dataclass(frozen=True)
class Plan:
    """How much: ``jobs``, or so many ``minutes``; ``rest`` is in jobs."""

    jobs: int
    minutes: float
    workers: int
    kills: int
    rest: int


@dataclass
class Soak:
    """One run.

    The first worker is never killed, so that one life lasts as long as the run.
    ``cases``: by job. ``rests``: of each worker, its vitals while no job ran.
    ``children``: those of killed workers.
    """

    queue: LocalQueue
    folder: Path
    env: dict[str, str]
    draw: random.Random
    deck: Deck
    plan: Plan
    cases: dict[str, Case] = field(default_factory=dict)
    alive: list[WorkerProcess] = field(default_factory=list)
    workers: list[WorkerProcess] = field(default_factory=list)
    killed: dict[str, float] = field(default_factory=dict)
    children: dict[str, list[Child]] = field(default_factory=dict)
    died: list[str] = field(default_factory=list)
    ended: set[str] = field(default_factory=set)
    done: Counter[str] = field(default_factory=Counter)
    rests: dict[str, list[Vitals]] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    _waiting: list[Case] = field(default_factory=list)

    def start_worker(self, stack: ExitStack) -> None:
        """Start one more worker. ``stack`` ends it."""
        name = f"w{len(self.workers) + 1}"
        worker = WorkerProcess(self.queue, self.folder, name, self.env)
        stack.enter_context(worker)
        self.workers.append(worker)
        self.alive.append(worker)

    def submit(self) -> None:
        """Submit the next job."""
        if not self._waiting:
            left = self.plan.jobs - len(self.cases)
            jobs = BLOCK if self.plan.minutes else min(BLOCK, left)
            self._waiting = self.deck.block(jobs)
        case = self._waiting.pop(0)
        self.cases[self.queue.submit(case.job, job_id=case.id)] = case

    def feed(self, most: int) -> None:
        """Submit jobs, up to ``most`` in all, while few wait or run."""
        backlog = BACKLOG * self.plan.workers
        while len(self.cases) < min(most, len(self.ended) + backlog):
            self.submit()

    def look(self) -> bool:
        """Note the jobs that ended. Returns whether one did."""
        final = [job for job in self.queue.jobs if job.state.final]
        fresh = [job for job in final if job.id not in self.ended]
        self.ended.update(job.id for job in fresh)
        self.done.update(job.worker for job in fresh if job.worker)
        return bool(fresh)

    def replace_dead(self, stack: ExitStack) -> None:
        """Replace workers that ended by themselves."""
        for worker in [worker for worker in self.alive if not worker.alive]:
            code = worker.process.returncode
            self.died.append(f"{worker.name} (exit code {code})")
            self.alive.remove(worker)
            self.start_worker(stack)

    def kill_one(self, stack: ExitStack) -> bool:
        """Kill a busy worker and start another; False if none is busy."""
        running = [job for job in self.queue.jobs if job.state is State.IN_PROGRESS]
        names = {job.worker for job in running}
        mortal = [worker for worker in self.alive if self.is_mortal(worker.name)]
        busy = [worker for worker in mortal if worker.name in names]
        if not busy:
            return False
        victim = self.draw.choice(busy)
        self.children[victim.name] = children_of(victim.process.pid)
        victim.kill()
        self.killed[victim.name] = time.monotonic()
        self.alive.remove(victim)
        self.start_worker(stack)
        return True

    def is_mortal(self, name: str) -> bool:
        """Whether this worker may be killed."""
        return name != self.workers[0].name or self.plan.workers == 1

    def rest(self) -> None:
        """Measure all workers while no job runs."""
        time.sleep(SETTLE_SECONDS)
        for worker in self.alive:
            vitals = self._vitals_at_rest(worker)
            if vitals is not None and vitals.jobs:
                self.rests.setdefault(worker.name, []).append(vitals)

    def _vitals_at_rest(self, worker: WorkerProcess) -> Vitals | None:
        """Return what it holds, when that is no more than at its first rest.

        What is on its way out is given some time.
        """
        until = time.monotonic() + LOOSE_SECONDS
        first = next(iter(self.rests.get(worker.name, [])), None)
        while True:
            vitals = measure(worker.process.pid, self.done[worker.name])
            if vitals is None or first is None or not vitals.exceeds(first):
                return vitals
            if time.monotonic() > until:
                return vitals
            time.sleep(0.5)

    def orphans(self) -> list[str]:
        """Return the children that outlived a killed worker."""
        return [
            f"{name}: process {child[0]}"
            for name, children in self.children.items()
            for child in children
            if lives(child)
        ]


def run(soak: Soak) -> None:
    """Run until all jobs have ended, or none has for a long time.

    The workers rest at times. With minutes, jobs are added until that time is over.
    """
    with ExitStack() as stack:
        for _ in range(soak.plan.workers):
            soak.start_worker(stack)
            soak.workers[-1].ready()  # rclone shows files that another is writing
        rest = soak.plan.rest
        for most in count(rest, rest):
            if not _drive(soak, most, stack):
                break
            soak.rest()
            seconds = time.monotonic() - soak.began
            print(f"{len(soak.ended)} jobs in {seconds:.0f} s", flush=True)
            if _is_over(soak):
                break


def _is_over(soak: Soak) -> bool:
    plan = soak.plan
    if plan.minutes:
        return time.monotonic() > soak.began + plan.minutes * 60
    return len(soak.ended) >= plan.jobs


def _drive(soak: Soak, most: int, stack: ExitStack) -> bool:
    """Run until so many jobs have ended. Returns False if no job ends any more."""
    last = time.monotonic()
    most = most if soak.plan.minutes else min(most, soak.plan.jobs)
    while time.monotonic() - last <= STALLED:
        if soak.look():
            last = time.monotonic()
        soak.replace_dead(stack)
        soak.feed(most)
        if len(soak.ended) >= most:
            return True
        if len(soak.killed) < kills_due(soak):
            soak.kill_one(stack)
        time.sleep(0.05)
    return False


def kills_due(soak: Soak) -> int:
    """Return how many kills are due by now.

    They are spread evenly over the first part, from the first ended job on.
    """
    ended, plan = len(soak.ended), soak.plan
    if not ended:
        return 0
    if plan.minutes:
        share = 2 * (time.monotonic() - soak.began) / 60 / plan.minutes
    else:
        share = ended / max(plan.jobs - WINDOW, plan.jobs / 2)
    return min(plan.kills, int(share * (plan.kills + 1)))


def worker_seconds(soak: Soak, job: Job) -> float:
    """Return the seconds from a job's last hand-out to its end."""
    takes = soak.queue.of("take", job=job.id)
    return (job.ended or 0.0) - takes[-1].time if takes else 0.0
