"""Start a command with limits, wait for it, and end it in any case."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..progress import Check, no_check

POLL_SECONDS = 0.1
"""How often a waiting thread asks whether the job must end."""
_LAUNCHER = Path(__file__).with_name("launcher.py")
_INHERITED = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")

Process = subprocess.Popen[bytes]


@dataclass(frozen=True)
class Limits:
    """The limits of a child; None means no limit.

    ``seconds``: of the clock, for one command or one call. ``cpu_seconds`` and
    ``memory_bytes`` (address space): for the whole life of the child.
    """

    seconds: float | None = None
    cpu_seconds: int | None = None
    memory_bytes: int | None = None


class ChildFailed(Exception):  # it never leaves this package
    """A child exceeded a limit or crashed. ``reason`` completes "the reading ..."."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Finished:
    """The result of a command: its exit status, and its output."""

    status: int
    stdout: bytes
    stderr: bytes


class Clock:
    """The time that is left for a child.

    ``tick`` raises ChildFailed when it is over, and what ``check`` raises.
    """

    def __init__(self, seconds: float | None, check: Check) -> None:
        self._seconds = seconds
        self._check = check
        self._start = time.monotonic()

    def tick(self) -> None:
        """Go on, or raise."""
        self._check()
        if self._seconds is not None and self._remaining() <= 0:
            raise ChildFailed(f"took longer than {self._seconds:g} s")

    def pause(self) -> float:
        """Return how many seconds may pass until the next tick."""
        return max(min(POLL_SECONDS, self._remaining()), 0.0)

    def _remaining(self) -> float:
        seconds = float("inf") if self._seconds is None else self._seconds
        return self._start + seconds - time.monotonic()


def run(
    command: list[str],
    limits: Limits,
    *,
    stdin: bytes | memoryview = b"",
    folder: Path | None = None,
    check: Check = no_check,
) -> Finished:
    """Run ``command`` in ``folder`` until it ends.

    stdin is fed without a copy, while stdout and stderr are drained.
    Raises ChildFailed, OSError if the command cannot be started, and whatever ``check``
    raises.
    """
    pipe = subprocess.PIPE
    clock = Clock(limits.seconds, check)
    with (
        started(
            command, limits, cwd=folder, stdin=pipe, stdout=pipe, stderr=pipe
        ) as process,
        _fed(process, stdin),
    ):
        stdout, stderr = _outputs(process, clock)
    return Finished(process.returncode, stdout, stderr)


@contextmanager
def started(command: list[str], limits: Limits, **options: Any) -> Generator[Process]:
    """Start ``command``, and kill it at the end of the block if it still runs."""
    process = start(command, limits, **options)
    try:
        yield process
    finally:
        end(process)


def start(
    command: list[str],
    limits: Limits,
    *,
    environment: Mapping[str, str] | None = None,
    **options: Any,
) -> Process:
    """Start ``command`` with few variables of this process, and those given.

    ``options`` are Popen's. The thread that calls this must live on until the end of
    the child. Raises OSError.
    """
    program = shutil.which(command[0])
    if program is None:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    bounds = [os.getpid(), limits.memory_bytes or 0, limits.cpu_seconds or 0]
    launcher = [sys.executable, "-I", "-S", str(_LAUNCHER), *map(str, bounds)]
    kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    options |= {"env": {**kept, **(environment or {})}, "start_new_session": True}
    arguments = [*launcher, program, *command[1:]]
    return Process(arguments, **options)


def end(process: Process) -> None:
    """Kill the child with all that it started, and reap it."""
    try:
        # While the child is not reaped, its id belongs to no other group.
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


@contextmanager
def _fed(process: Process, content: bytes | memoryview) -> Generator[None]:
    """Feed stdin on a thread inside the block: Popen cannot go on after a timeout."""
    pipe, process.stdin = process.stdin, None
    assert pipe is not None  # noqa: S101 - it was asked for

    def feed() -> None:
        with suppress(BrokenPipeError), pipe:
            pipe.write(content)

    feeder = threading.Thread(target=feed, name="feeder", daemon=True)
    feeder.start()
    try:
        yield
    except BaseException:
        end(process)  # or the feeder would wait for it
        raise
    finally:
        feeder.join()


def _outputs(process: Process, clock: Clock) -> tuple[bytes, bytes]:
    while True:
        try:
            return process.communicate(timeout=clock.pause())
        except subprocess.TimeoutExpired:
            clock.tick()
