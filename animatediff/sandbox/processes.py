"""Start a command with limits, wait for it, and end it in any case."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
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
    """What a child may take; None means any amount.

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
    """What a command left: its exit status, and its output."""

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
        passed = time.monotonic() - self._start
        if self._seconds is not None and passed > self._seconds:
            raise ChildFailed(f"took longer than {self._seconds:g} s")


def run(
    command: list[str],
    limits: Limits,
    *,
    stdin: bytes | memoryview = b"",
    folder: Path | None = None,
    check: Check = no_check,
) -> Finished:
    """Run ``command`` in ``folder`` until it ends.

    stdin is fed in small pieces without a copy, while stdout and stderr are drained.
    Raises ChildFailed, OSError if the command cannot be started, and whatever ``check``
    raises.
    """
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    clock = Clock(limits.seconds, check)
    with started(
        command, limits, cwd=folder, stderr=subprocess.PIPE, **pipes
    ) as process:
        stdout, stderr = _communicate(process, stdin, clock)
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


def _communicate(
    process: Process, stdin: bytes | memoryview, clock: Clock
) -> tuple[bytes, bytes]:
    remaining: Any = stdin
    while True:
        try:
            return process.communicate(remaining, timeout=POLL_SECONDS)
        except subprocess.TimeoutExpired:
            remaining = None  # Popen keeps what it has not yet written
            clock.tick()
