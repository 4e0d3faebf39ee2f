"""Run many jobs on several real workers, and kill some of the workers while busy.

``python -m lab.soak --jobs 300``: the workers run handler.py with the embedded family,
under the RunPod SDK, against a queue on this machine. The exit code is 1 if a job was
lost, failed or answered twice, if it has not just one file, or if a worker ended by
itself.
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
"""Jobs at the end, over which memory must not grow. Workers are killed before them."""
STALLED = 180.0
"""Seconds without any job ending, after which the remaining jobs count as lost."""
PHASES = ("load", "encode", "denoise", "decode")
"""The timings of an output on the GPU, for workers that log no gpu_seconds."""


@dataclass
class Soak:
    """One run.

    ``memory``: of each worker, a job's number in the run and the resident bytes after
    the job.
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
            memory = worker.memory() if worker.name == name else None
            if memory:
                samples = self.memory.setdefault(worker.name, [])
                samples.append((len(self.ended), memory))

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
    """Return how many kills are due by now.

    They are spread evenly over the first part, from the first ended job on.
    """
    ended = len(soak.ended)
    if not ended:
        return 0
    if options.minutes:
        minutes = (time.monotonic() - soak.began) / 60
        share = 2 * minutes / options.minutes
    else:
        share = ended / max(options.jobs - WINDOW, options.jobs / 2)
    return min(options.kills, int(share * (options.kills + 1)))


@dataclass(frozen=True)
class Outcome:
    """The end of the jobs. ``files``: names of all stored files, if any."""

    soak: Soak
    files: Sequence[str] | None

    @property
    def jobs(self) -> Sequence[Job]:
        """All jobs of the run."""
        return self.soak.queue.jobs

    def of(self, state: State) -> list[Job]:
        """Return the jobs in this state."""
        return [job for job in self.jobs if job.state is state]

    def results(self) -> Counter[str]:
        """Count the results of each job that the queue accepted."""
        counts: Counter[str] = Counter()
        for call in self.soak.queue.of("result"):
            if call.status == 200:
                counts.update(call.jobs)
        return counts

    def stored(self) -> dict[str, int]:
        """Count the files of each completed job."""
        ids = [job.id for job in self.of(State.COMPLETED)]
        files = self.files
        if files is None:
            return dict.fromkeys(ids, 1)
        return {job: sum(job in name for name in files) for job in ids}

    def damaged(self) -> list[str]:
        """Return completed jobs whose file has another hash than their output."""
        completed = self.of(State.COMPLETED)
        return [job.id for job in completed if is_damaged(job)]

    def done_once(self) -> int:
        """Return how many completed jobs have one result and one file."""
        results, stored = self.results(), self.stored()
        single = [job for job, count in stored.items() if count == 1]
        return sum(results[job] == 1 for job in single)

    def failures(self) -> dict[str, list[str]]:
        """Return the jobs or workers of each failure, by its name."""
        late = self.soak.queue.late_progress()
        return {
            "lost": [job.id for job in self.jobs if not job.state.final],
            "failed": [f"{job.id}: {job.error}" for job in self.of(State.FAILED)],
            "more than one result": _repeated(self.results()),
            "not one file": _not_one(self.stored()),
            "another file than in the output": self.damaged(),
            "progress after the result": [call.jobs[0] for call in late],
            "ended by themselves": self.soak.died,
        }


def _repeated(results: Mapping[str, int]) -> list[str]:
    return [job for job, count in results.items() if count > 1]


def _not_one(files: Mapping[str, int]) -> list[str]:
    return [f"{job}: {count}" for job, count in files.items() if count != 1]


def is_damaged(job: Job) -> bool:
    """Return whether a completed job's file has another hash than its output."""
    digest = sha256(content_of(job.output))
    return digest.hexdigest() != job.output["sha256"]


def report(soak: Soak, files: Sequence[str] | None) -> Iterator[str]:
    """Yield the figures of the run. Lines that begin with FAILED are failures.

    ``files``: the names of all stored files, if files are stored.
    """
    outcome = Outcome(soak, files)
    jobs, requeued = outcome.jobs, len(soak.queue.requeued)
    states = Counter(str(job.state) for job in jobs)
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    place = "in the answers" if files is None else f"{len(files)} files in storage"
    yield f"jobs                    {len(jobs)}: {counts}"
    yield f"done once, one file     {outcome.done_once()} ({place})"
    yield f"killed workers          {len(soak.killed)}, {requeued} jobs requeued"
    for name, cases in outcome.failures().items():
        if cases:
            yield f"FAILED {len(cases)} {name}: {'; '.join(cases[:5])}"
    yield from throughput(soak, outcome.of(State.COMPLETED))
    yield from growth(soak)


def throughput(soak: Soak, completed: Sequence[Job]) -> Iterator[str]:
    """Yield jobs a minute, and the share of the workers' time that the GPU worked."""
    ends = [job.ended or 0.0 for job in completed]
    wall = max(ends, default=soak.began) - soak.began
    rate = 60 * len(completed) / wall if wall else 0
    gpu, source = gpu_seconds(soak, completed)
    spent = sum(gpu.get(job.id, 0.0) for job in completed)
    names = [worker.name for worker in soak.workers]
    spans = sum(working_seconds(soak, name) for name in names)
    busy = spent / spans if spans else 0.0
    yield f"throughput              {rate:.1f} jobs a minute, {wall:.0f} s in all"
    yield (
        f"GPU seconds             {spent:.0f} of {spans:.0f} worker seconds:"
        f" busy {busy:.1%} ({source})"
    )


def gpu_seconds(soak: Soak, completed: Sequence[Job]) -> tuple[dict[str, float], str]:
    """Return the seconds on the GPU by job, and the source of the figures."""
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
    """Return the seconds of an output's timings that are spent on the GPU."""
    return sum(timings.get(phase, 0.0) for phase in PHASES)


def working_seconds(soak: Soak, worker: str) -> float:
    """Return the seconds from a worker's first job to its last result, or its kill."""
    calls = soak.queue.of("take", worker=worker)
    starts = [call.time for call in calls if call.jobs]
    if not starts:
        return 0.0
    ends = [call.time for call in soak.queue.of("result", worker=worker)]
    last = max([*ends, soak.killed.get(worker, 0.0)])
    return last - starts[0]


def growth(soak: Soak) -> Iterator[str]:
    """Yield the memory of each worker that did 10 jobs or more in the window.

    Compares the first five samples with the last five.
    """
    start = len(soak.ended) - WINDOW
    for name, samples in soak.memory.items():
        window = [size / 1e6 for number, size in samples if number > start]
        count = len(window)
        if name in soak.killed or count < 10:
            continue
        first, last = statistics.median(window[:5]), statistics.median(window[-5:])
        change = last / first - 1
        sizes = f"{first:.0f} MB -> {last:.0f} MB over {count} jobs"
        yield f"memory of {name:14}{sizes}: {change:+.1%}"


def bucket_environment(server: S3Server) -> dict[str, str]:
    """Make the bucket "clips". Return the variables of a worker that stores there."""
    server.client().create_bucket(Bucket="clips")
    return {
        "BUCKET_NAME": "clips",
        "BUCKET_ENDPOINT_URL": server.url,
        "BUCKET_ACCESS_KEY_ID": server.access_key,
        "BUCKET_SECRET_ACCESS_KEY": server.secret_key,
        "BUCKET_ADDRESSING_STYLE": "path",
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report. Return 1 if something failed."""
    options = _parser().parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="soak-") as scratch, ExitStack() as stack:
        env, bucket = {}, Path(scratch, "bucket")
        if options.bucket:
            bucket.mkdir()
            env = bucket_environment(stack.enter_context(s3_server(bucket)))
        queue = stack.enter_context(LocalQueue())
        soak = Soak(queue, Path(scratch, "workers"), env, random.Random(options.seed))
        run(soak, options)
        lines = list(report(soak, _names_in(bucket) if options.bucket else None))
        is_bad = any(line.startswith("FAILED") for line in lines)
        print(*lines, sep="\n")
        if is_bad:
            for worker in soak.workers[-options.workers :]:
                print(f"--- {worker.name}\n{worker.log(2000)}")
    return 1 if is_bad else 0


def _names_in(folder: Path) -> list[str]:
    paths = folder.rglob("*")
    return [path.name for path in paths if path.is_file()]


def _parser() -> argparse.ArgumentParser:
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
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
