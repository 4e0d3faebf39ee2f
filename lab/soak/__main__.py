"""Run many jobs on several real workers, and kill some of the workers while busy.

``python -m lab.soak --jobs 300``: the workers run handler.py with the embedded family,
under the RunPod SDK, against a queue on this machine. Some jobs download from hosts
that waste time, and some attack the worker. The exit code is 1 if a job was lost,
answered twice or answered in another way than it must be, if a clip has not just one
file, if a worker ended by itself, or if it holds more at the end than after warm-up:
memory, threads, child processes or open files.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from lab.hostile.certificates import make_certificate
from lab.hostile.hosts import Host
from lab.queue.local_queue import LocalQueue
from lab.queue.s3_server import S3Server, s3_server
from lab.soak.cases import Deck, Places, files
from lab.soak.judge import lives_of
from lab.soak.report import FAILED, evidence_of, report
from lab.soak.run import Plan, Soak, run

JOB_SECONDS = 45
"""The limit of a job's own work, for a download that never ends."""


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


def host_environment(folder: Path, stack: ExitStack) -> tuple[Places, dict[str, str]]:
    """Start the hosts. Return the places there, and a worker's variables."""
    certificate = make_certificate(folder)
    host = stack.enter_context(Host(files(), certificate))
    hub = stack.enter_context(Host({}))
    return Places(host.url), {
        "ANIMATEDIFF_OFFLINE": "0",
        "ANIMATEDIFF_CACHE_DIR": str(folder / "cache"),
        "ANIMATEDIFF_MAX_CACHE_BYTES": "100000000",
        "ANIMATEDIFF_JOB_TIMEOUT_SECONDS": str(JOB_SECONDS),
        "RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS": "1",
        "REQUESTS_CA_BUNDLE": str(certificate),
        "HF_ENDPOINT": f"{hub.url}/silent",
        "HF_HOME": str(folder / "hub"),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report. Return 1 if something failed."""
    options = _parser().parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="soak-") as scratch, ExitStack() as stack:
        bucket = Path(scratch, "bucket")
        places, env = host_environment(Path(scratch), stack)
        if options.bucket:
            bucket.mkdir()
            env |= bucket_environment(stack.enter_context(s3_server(bucket)))
        soak = _soak(options, places, env, Path(scratch, "workers"))
        with soak.queue:
            run(soak)
        stored = _names_in(bucket) if options.bucket else None
        evidence = evidence_of(soak, lives_of(soak.rests), stored)
        lines = list(report(soak, evidence))
        print(*lines, sep="\n")
        is_bad = any(line.startswith(FAILED) for line in lines)
        if is_bad:
            _print_logs(soak)
    return 1 if is_bad else 0


def _print_logs(soak: Soak) -> None:
    for worker in soak.workers:
        for event in worker.events("unexpected"):
            print(f"{worker.name}: {json.dumps(event.fields)}")
    died = {line.partition(" ")[0] for line in soak.died}
    for worker in soak.workers:
        if worker not in soak.alive and worker.name not in died:
            continue
        print(f"--- {worker.name}\n{worker.log(2000)}")


def _soak(
    options: argparse.Namespace, places: Places, env: dict[str, str], folder: Path
) -> Soak:
    draw = random.Random(options.seed)
    deck = Deck(draw, places, slow=options.slow, hostile=options.hostile)
    rest = max(20, options.jobs // 20)
    plan = Plan(options.jobs, options.minutes, options.workers, options.kills, rest)
    return Soak(LocalQueue(), folder, env, draw, deck, plan)


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
        "--slow", type=float, default=5.0, help="percent of jobs with slow hosts"
    )
    parser.add_argument(
        "--hostile", type=float, default=5.0, help="percent of jobs that attack"
    )
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
