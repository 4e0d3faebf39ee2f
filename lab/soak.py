"""Many jobs over several real workers, of which some are killed while busy: python -m
lab.soak --jobs 300

The workers run handler.py with the embedded family, under the RunPod SDK, against a
queue on this machine. Ends with 1 if a job was lost, failed or answered twice, if it
has not just one file, or if a worker ended by itself.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from lab.queue.local_queue import Job, LocalQueue, State
from lab.queue.s3_server import S3Server, s3_server
from lab.queue.workers import WorkerProcess, content_of

PROMPTS = ("a red circle, moving up", "a blue square, growing", "a green triangle")
WINDOW = 200
"""Jobs at the end, over which memory must not grow. Workers are killed before, where
there are that many.
"""
STALLED = 180.0
"""Seconds without any job ending, after which those that are left count as lost."""
PHASES = ("load", "encode", "denoise", "decode")
"""Of an output's timings: those on the GPU, for workers that log no gpu_seconds."""


@dataclass
class Soak:
    """One run. ``memory`` has resident bytes by worker, after each of its jobs, with
    that job's number in the run.
    """

    queue: LocalQueue
    folder: Path
    env: dict[str, str]
    draw: random.Random
    alive: list[WorkerProcess] = field(default_factory=list)
    workers: list[WorkerProcess] = field(default_factory=list)
    killed: dict[str, float] = field(default_factory=dict)
    died: list[str] = field(default_factory=list)
    ended: list[Job] = field(default_factory=list)
    memory: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def start_worker(self, stack: ExitStack) -> None:
        """Start one more worker. ``stack`` ends it."""
        name = f"w{len(self.workers) + 1}"
        worker = WorkerProcess(self.queue, self.folder, name, self.env)
        stack.enter_context(worker)
        self.workers.append(worker)
        self.alive.append(worker)

    def submit(self) -> None:
        """Submit a job of half a second to a few, without a seed."""
        self.queue.submit(
            {
                "prompt": self.draw.choice(PROMPTS),
                "num_frames": self.draw.choice((4, 8, 16)),
                "num_inference_steps": self.draw.randint(6, 20),
                "format": self.draw.choice(("gif", "gif", "webp", "mp4")),
            }
        )

    def keep_busy(self, jobs: int) -> None:
        """Submit jobs until so many have not ended."""
        while len(self.queue.jobs) - len(self.ended) < jobs:
            self.submit()

    def look(self) -> bool:
        """Note the jobs that ended, and the memory of their workers.

        Returns whether a job ended.
        """
        before = {job.id for job in self.ended}
        final = [job for job in self.queue.jobs if job.state.final]
        fresh = [job for job in final if job.id not in before]
        for job in sorted(fresh, key=lambda job: job.ended or 0.0):
            self.ended.append(job)
            self._note_memory(job.worker)
        return bool(fresh)

    def _note_memory(self, name: str | None) -> None:
        for worker in self.alive:
            if worker.name == name and (memory := worker.memory()):
                samples = self.memory.setdefault(worker.name, [])
                samples.append((len(self.ended), memory))

    def replace_dead(self, stack: ExitStack) -> None:
        """Replace workers that ended by themselves."""
        for worker in [worker for worker in self.alive if not worker.alive]:
            self.died.append(f"{worker.name} (exit code {worker.process.returncode})")
            self.alive.remove(worker)
            self.start_worker(stack)

    def kill_one(self, stack: ExitStack) -> bool:
        """Kill a busy worker and start another; False if none is busy."""
        running = [job for job in self.queue.jobs if job.state is State.IN_PROGRESS]
        names = {job.worker for job in running}
        busy = [worker for worker in self.alive if worker.name in names]
        if not busy:
            return False
        victim = self.draw.choice(busy)
        victim.kill()
        self.killed[victim.name] = time.monotonic()
        self.alive.remove(victim)
        self.start_worker(stack)
        return True


def run(soak: Soak, options: argparse.Namespace) -> None:
    """Run until all jobs have ended, or none has for a long time.

    With --minutes, jobs are added until that time is over.
    """
    with ExitStack() as stack:
        for _ in range(options.workers):
            soak.start_worker(stack)
        for _ in range(0 if options.minutes else options.jobs):
            soak.submit()
        _drive(soak, options, stack)
        time.sleep(2)  # for requests that still follow the last result


def _drive(soak: Soak, options: argparse.Namespace, stack: ExitStack) -> None:
    until = soak.began + options.minutes * 60
    last, kills = time.monotonic(), 0
    while time.monotonic() - last <= STALLED:
        if soak.look():
            last = time.monotonic()
        soak.replace_dead(stack)
        if time.monotonic() < until:
            soak.keep_busy(4 * options.workers)
        elif len(soak.ended) == len(soak.queue.jobs):
            return
        if kills < kills_due(soak, options):
            kills += soak.kill_one(stack)
        time.sleep(0.05)


def kills_due(soak: Soak, options: argparse.Namespace) -> int:
    """How many kills are due by now.

    They are spread evenly over the first part, from the first ended job on.
    """
    if not soak.ended:
        return 0
    if options.minutes:
        done = (time.monotonic() - soak.began) / (options.minutes * 60) * 2
    else:
        done = len(soak.ended) / max(options.jobs - WINDOW, options.jobs / 2)
    return min(options.kills, int(done * (options.kills + 1)))


@dataclass(frozen=True)
class Outcome:
    """What became of the jobs. ``files``: names of all stored files, if any."""

    soak: Soak
    files: Sequence[str] | None

    @property
    def jobs(self) -> Sequence[Job]:
        """All jobs of the run."""
        return self.soak.queue.jobs

    def of(self, state: State) -> list[Job]:
        """The jobs that ended so."""
        return [job for job in self.jobs if job.state is state]

    def results(self) -> Counter[str]:
        """How many results of each job the queue accepted."""
        calls = self.soak.queue.of("result")
        accepted = (call.jobs for call in calls if call.status == 200)
        return Counter(job for jobs in accepted for job in jobs)

    def stored(self) -> dict[str, int]:
        """How many files there are of each completed job."""
        ids = [job.id for job in self.of(State.COMPLETED)]
        if self.files is None:
            return dict.fromkeys(ids, 1)
        return {job: sum(job in name for name in self.files) for job in ids}

    def damaged(self) -> list[str]:
        """Completed jobs whose file has another hash than their output."""
        return [job.id for job in self.of(State.COMPLETED) if is_damaged(job)]

    def done_once(self) -> int:
        """How many completed jobs have one result and one file."""
        results, stored = self.results(), self.stored()
        return sum(count == 1 == results[job] for job, count in stored.items())

    def failures(self) -> dict[str, list[str]]:
        """What must not happen, by its name."""
        failed = [f"{job.id}: {job.error}" for job in self.of(State.FAILED)]
        repeated = [job for job, count in self.results().items() if count > 1]
        stored = self.stored().items()
        late = self.soak.queue.late_progress()
        return {
            "lost": [job.id for job in self.jobs if not job.state.final],
            "failed": failed,
            "more than one result": repeated,
            "not one file": [f"{job}: {n}" for job, n in stored if n != 1],
            "another file than in the output": self.damaged(),
            "progress after the result": [call.jobs[0] for call in late],
            "ended by themselves": self.soak.died,
        }


def is_damaged(job: Job) -> bool:
    """Whether a completed job's file has another hash than its output."""
    return sha256(content_of(job.output)).hexdigest() != job.output["sha256"]


def report(soak: Soak, files: Sequence[str] | None) -> Iterator[str]:
    """The figures of the run. Lines that begin with FAILED are failures.

    ``files``: the names of all stored files, if files are stored.
    """
    outcome = Outcome(soak, files)
    states = Counter(str(job.state) for job in outcome.jobs)
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    where = "in the answers" if files is None else f"{len(files)} files in storage"
    requeued = len(soak.queue.requeued)
    yield f"jobs                    {len(outcome.jobs)}: {counts}"
    yield f"done once, one file     {outcome.done_once()} ({where})"
    yield f"killed workers          {len(soak.killed)}, {requeued} jobs requeued"
    for name, cases in outcome.failures().items():
        if cases:
            yield f"FAILED {len(cases)} {name}: {'; '.join(cases[:5])}"
    yield from throughput(soak, outcome.of(State.COMPLETED))
    yield from growth(soak)


def throughput(soak: Soak, completed: Sequence[Job]) -> Iterator[str]:
    """Jobs a minute, and the share of the workers' time that the GPU worked."""
    wall = max((job.ended or 0.0 for job in completed), default=soak.began) - soak.began
    rate = len(completed) / wall * 60 if wall else 0
    gpu, source = gpu_seconds(soak, completed)
    spent = sum(gpu.get(job.id, 0.0) for job in completed)
    spans = sum(working_seconds(soak, worker.name) for worker in soak.workers)
    busy = spent / spans if spans else 0.0
    yield f"throughput              {rate:.1f} jobs a minute, {wall:.0f} s in all"
    yield (
        f"GPU seconds             {spent:.0f} of {spans:.0f} worker seconds:"
        f" busy {busy:.1%} ({source})"
    )


def gpu_seconds(soak: Soak, completed: Sequence[Job]) -> tuple[dict[str, float], str]:
    """Seconds on the GPU by job, and where the figures come from."""
    logged = {
        str(event.job): float(event.fields.get("gpu_seconds", 0.0))
        for worker in soak.workers
        for event in worker.events("job_done")
    }
    if logged:
        return logged, "logged"
    timed = {job.id: phase_seconds(job.output["timings"]) for job in completed}
    return timed, "from the outputs' timings: no worker logged any"


def phase_seconds(timings: Mapping[str, float]) -> float:
    """The seconds of an output's timings that are spent on the GPU."""
    return sum(timings.get(phase, 0.0) for phase in PHASES)


def working_seconds(soak: Soak, worker: str) -> float:
    """Seconds from a worker's first job to its last result, or to its kill."""
    calls = soak.queue.of("take", worker=worker)
    taken = [call.time for call in calls if call.jobs]
    if not taken:
        return 0.0
    answered = [call.time for call in soak.queue.of("result", worker=worker)]
    return max([*answered, soak.killed.get(worker, 0.0)]) - taken[0]


def growth(soak: Soak) -> Iterator[str]:
    """Memory of each worker that did 10 jobs or more in the window.

    Compares the first five samples with the last five.
    """
    for name, samples in soak.memory.items():
        start = len(soak.ended) - WINDOW
        window = [size / 1e6 for number, size in samples if number > start]
        if name in soak.killed or len(window) < 10:
            continue
        first, last = statistics.median(window[:5]), statistics.median(window[-5:])
        change = f"{first:.0f} MB -> {last:.0f} MB over {len(window)} jobs"
        yield f"memory of {name:14}{change}: {last / first - 1:+.1%}"


def bucket_environment(server: S3Server) -> dict[str, str]:
    server.client().create_bucket(Bucket="clips")
    return {
        "BUCKET_NAME": "clips",
        "BUCKET_ENDPOINT_URL": server.url,
        "BUCKET_ACCESS_KEY_ID": server.access_key,
        "BUCKET_SECRET_ACCESS_KEY": server.secret_key,
        "BUCKET_ADDRESSING_STYLE": "path",
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lab.soak", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument(
        "--minutes",
        type=float,
        default=0.0,
        help="add jobs for so long, instead of --jobs",
    )
    parser.add_argument(
        "--bucket",
        action="store_true",
        help="store in a real S3 server (rclone), not in the answers",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of the choice of jobs and of workers to be killed",
    )
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="soak-") as scratch, ExitStack() as stack:
        env, bucket = {}, Path(scratch) / "bucket"
        if options.bucket:
            bucket.mkdir()
            env = bucket_environment(stack.enter_context(s3_server(bucket)))
        queue = stack.enter_context(LocalQueue())
        soak = Soak(queue, Path(scratch) / "workers", env, random.Random(options.seed))
        run(soak, options)
        names = (
            [path.name for path in bucket.rglob("*") if path.is_file()]
            if options.bucket
            else None
        )
        lines = list(report(soak, names))
        bad = any(line.startswith("FAILED") for line in lines)
        print(*lines, sep="\n")
        if bad:
            print(
                *(
                    f"--- {worker.name}\n{worker.log(2000)}"
                    for worker in soak.workers[-options.workers :]
                ),
                sep="\n",
            )
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
