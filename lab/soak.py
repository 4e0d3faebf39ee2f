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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from lab.queue.local_queue import Job, LocalQueue, State
from lab.queue.s3_server import S3Server, s3_server
from lab.queue.workers import WorkerProcess, content_of

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
        worker = stack.enter_context(
            WorkerProcess(
                self.queue, self.folder, f"w{len(self.workers) + 1}", self.env
            )
        )
        self.workers.append(worker)
        self.alive.append(worker)

    def submit(self) -> None:
        """Jobs of half a second to a few, each with a seed of its own that is drawn
        where it runs.
        """
        self.queue.submit(
            {
                "prompt": self.draw.choice(
                    (
                        "a red circle, moving up",
                        "a blue square, growing",
                        "a green triangle",
                    )
                ),
                "num_frames": self.draw.choice((4, 8, 16)),
                "num_inference_steps": self.draw.randint(6, 20),
                "format": self.draw.choice(("gif", "gif", "webp", "mp4")),
            }
        )

    def look(self) -> bool:
        """Take note of jobs that ended and of the memory of their workers; whether
        there was one.
        """
        known = {job.id for job in self.ended}
        fresh = [
            job for job in self.queue.jobs if job.state.final and job.id not in known
        ]
        for job in sorted(fresh, key=lambda job: job.ended or 0.0):
            self.ended.append(job)
            worker = next(
                (worker for worker in self.alive if worker.name == job.worker), None
            )
            if worker and (memory := worker.memory()):
                self.memory.setdefault(worker.name, []).append(
                    (len(self.ended), memory)
                )
        return bool(fresh)

    def replace_dead(self, stack: ExitStack) -> None:
        for worker in [worker for worker in self.alive if not worker.alive]:
            self.died.append(f"{worker.name} (exit code {worker.process.returncode})")
            self.alive.remove(worker)
            self.start_worker(stack)

    def kill_one(self, stack: ExitStack) -> bool:
        """Kill a busy worker and start another; False if none is busy."""
        taken = {
            job.worker for job in self.queue.jobs if job.state is State.IN_PROGRESS
        }
        busy = [worker for worker in self.alive if worker.name in taken]
        if not busy:
            return False
        victim = self.draw.choice(busy)
        victim.kill()
        self.killed[victim.name] = time.monotonic()
        self.alive.remove(victim)
        self.start_worker(stack)
        return True


def run(soak: Soak, options: argparse.Namespace) -> None:
    """Until all jobs have ended, or none has for long. With --minutes, jobs are added
    until that time is over.
    """
    until = soak.began + options.minutes * 60
    last, kills = time.monotonic(), 0
    with ExitStack() as stack:
        for _ in range(options.workers):
            soak.start_worker(stack)
        for _ in range(0 if options.minutes else options.jobs):
            soak.submit()
        while True:
            if soak.look():
                last = time.monotonic()
            soak.replace_dead(stack)
            while (
                time.monotonic() < until
                and len(soak.queue.jobs) - len(soak.ended) < 4 * options.workers
            ):
                soak.submit()
            if kills < kills_due(soak, options) and soak.kill_one(stack):
                kills += 1
            over = time.monotonic() >= until and len(soak.ended) == len(soak.queue.jobs)
            if over or time.monotonic() - last > STALLED:
                break
            time.sleep(0.05)
        time.sleep(2)  # for what would still come of jobs that have ended


def kills_due(soak: Soak, options: argparse.Namespace) -> int:
    """How many there should have been by now: evenly over the first part, at the
    earliest when jobs have ended.
    """
    if options.minutes:
        done = (time.monotonic() - soak.began) / (options.minutes * 60) * 2
    else:
        done = len(soak.ended) / max(options.jobs - WINDOW, options.jobs / 2)
    return min(options.kills, int(done * (options.kills + 1))) if soak.ended else 0


def report(soak: Soak, names: Sequence[str] | None) -> Iterator[str]:
    """The numbers. Lines that begin with FAILED are what must not be. ``names``: of all
    stored files, if any are.
    """
    jobs = soak.queue.jobs
    states = Counter(str(job.state) for job in jobs)
    results = Counter(
        job_id
        for call in soak.queue.of("result")
        if call.status == 200
        for job_id in call.jobs
    )
    completed = [job for job in jobs if job.state is State.COMPLETED]
    stored = {
        job.id: 1 if names is None else sum(job.id in name for name in names)
        for job in completed
    }
    damaged = [
        job.id
        for job in completed
        if sha256(content_of(job.output)).hexdigest() != job.output["sha256"]
    ]
    once = [job for job in completed if results[job.id] == 1 and stored[job.id] == 1]
    yield f"jobs                    {len(jobs)}: {', '.join(f'{n} {state}' for state, n in states.items())}"
    where = "in the answers" if names is None else f"{len(names)} files in storage"
    yield f"done once, one file     {len(once)} ({where})"
    yield f"killed workers          {len(soak.killed)}, {len(soak.queue.requeued)} jobs requeued"
    yield from failures("lost", [job.id for job in jobs if not job.state.final])
    yield from failures(
        "failed",
        [f"{job.id}: {job.error}" for job in jobs if job.state is State.FAILED],
    )
    yield from failures(
        "more than one result",
        [job_id for job_id, count in results.items() if count > 1],
    )
    yield from failures(
        "not one file",
        [f"{job}: {count}" for job, count in stored.items() if count != 1],
    )
    yield from failures("another file than the answer says", damaged)
    yield from failures(
        "progress after the result",
        [call.jobs[0] for call in soak.queue.late_progress()],
    )
    yield from failures("ended by themselves", soak.died)
    yield from throughput(soak, completed)
    yield from growth(soak)


def failures(what: str, found: Sequence[str]) -> Iterator[str]:
    if found:
        yield f"FAILED {len(found)} {what}: {'; '.join(found[:5])}"


def throughput(soak: Soak, completed: Sequence[Job]) -> Iterator[str]:
    """GPU seconds of all workers, next to the seconds from each worker's first job to
    its last, or to its kill.
    """
    gpu: dict[str, float] = {}
    for worker in soak.workers:
        for event in worker.events("job_done"):
            gpu[str(event.job)] = float(event.fields.get("gpu_seconds", 0.0))
    logged = bool(gpu)
    if not logged:
        gpu = {
            job.id: sum(job.output["timings"].get(phase, 0.0) for phase in PHASES)
            for job in completed
        }
    spent = sum(gpu.get(job.id, 0.0) for job in completed)
    spans = 0.0
    for worker in soak.workers:
        taken = [
            call.time for call in soak.queue.of("take", worker=worker.name) if call.jobs
        ]
        told = [call.time for call in soak.queue.of("result", worker=worker.name)]
        if taken:
            spans += max([*told, soak.killed.get(worker.name, 0.0)]) - taken[0]
    wall = max((job.ended or 0.0 for job in completed), default=soak.began) - soak.began
    source = "logged" if logged else "from the outputs' timings: no worker logged any"
    busy = spent / spans if spans else 0.0
    yield f"throughput              {len(completed) / wall * 60 if wall else 0:.1f} jobs a minute, {wall:.0f} s in all"
    yield f"GPU seconds             {spent:.0f} of {spans:.0f} worker seconds: busy {busy:.1%} ({source})"


def growth(soak: Soak) -> Iterator[str]:
    """Of workers that did 10 jobs or more in the window: the first five samples against
    the last five.
    """
    for name, samples in soak.memory.items():
        window = [
            bytes_ / 1e6
            for number, bytes_ in samples
            if number > len(soak.ended) - WINDOW
        ]
        if name in soak.killed or len(window) < 10:
            continue
        first, last = statistics.median(window[:5]), statistics.median(window[-5:])
        yield f"memory of {name:14}{first:.0f} MB -> {last:.0f} MB over {len(window)} jobs: {last / first - 1:+.1%}"


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
