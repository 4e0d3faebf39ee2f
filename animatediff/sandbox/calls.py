"""Calls of a function in a child interpreter."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from ..progress import Check, no_check
from . import child
from .messages import OUT_OF_MEMORY, Facts, pack, unpack
from .processes import POLL_SECONDS, ChildFailed, Clock, Limits, Process, end, start

_PACKAGES = Path(__file__).resolve().parents[2]  # the folder that has animatediff/
_PIECE = 1 << 20
_DYING_SECONDS = 1.0


class Sandbox:
    """A child interpreter that answers calls of ``function``, one after another.

    ``function`` is "package.module:name". It takes facts (JSON values) and bytes, and
    returns the same; its module should import little, because the child starts anew for
    every sandbox. It starts at the first call, in about 0.1 s. Use the sandbox on one
    thread, as a context manager::

        with Sandbox("animatediff.x:decode", Limits(seconds=20)) as sandbox:
            facts, pixels = sandbox.call({"width": 8}, content, most=192, check=check)
    """

    def __init__(self, function: str, limits: Limits) -> None:
        self._function = function
        self._limits = limits
        self._child: tuple[Process, socket.socket] | None = None

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(
        self,
        facts: Facts,
        content: bytes | bytearray,
        *,
        most: int,
        check: Check = no_check,
    ) -> tuple[Facts, bytes | bytearray]:
        """Return what the function makes of ``facts`` and ``content``.

        ``most`` is the largest number of bytes that it may return. Raises ChildFailed,
        and whatever ``check`` raises; then the next call starts another child.
        """
        clock = Clock(self._limits.seconds, check)
        try:
            return self._exchange(facts, content, most, clock)
        except BaseException:
            self.close()
            raise

    def _exchange(
        self, facts: Facts, content: bytes | bytearray, most: int, clock: Clock
    ) -> tuple[Facts, bytes | bytearray]:
        process, connection = self._started()
        try:
            for part in (pack(facts, len(content)), content):
                _send(connection, part, clock)
            answer = unpack(lambda size: _receive(connection, size, clock), most)
        except (OSError, EOFError):
            raise ChildFailed(self._reason(process)) from None
        except ValueError:
            raise ChildFailed("gave a damaged answer") from None
        if answer[0].get(OUT_OF_MEMORY):
            raise ChildFailed(self._too_little_memory())
        return answer

    def close(self) -> None:
        """End the child, if there is one."""
        if self._child is not None:
            process, connection = self._child
            connection.close()
            end(process)
        self._child = None

    def _started(self) -> tuple[Process, socket.socket]:
        if self._child is None:
            ours, theirs = socket.socketpair()
            ours.settimeout(POLL_SECONDS)
            with theirs:
                process = start(
                    [sys.executable, "-P", "-m", child.__name__, self._function],
                    self._limits,
                    environment=_environment(),
                    stdin=theirs,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            self._child = process, ours
        return self._child

    def _reason(self, process: Process) -> str:
        """Why a child ended that has closed its end of the connection."""
        with suppress(subprocess.TimeoutExpired):
            process.wait(_DYING_SECONDS)
        if process.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
            return f"took longer than {self._limits.cpu_seconds} s of computing"
        return "crashed"

    def _too_little_memory(self) -> str:
        return f"needed more than {(self._limits.memory_bytes or 0) / 1e6:.0f} MB"


def _environment() -> dict[str, str]:
    """The variables of a child that finds the same packages as this process."""
    paths = [_PACKAGES, *(path for path in sys.path if path)]
    return {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OPENBLAS_NUM_THREADS": "1"}


def _send(connection: socket.socket, content: bytes | bytearray, clock: Clock) -> None:
    rest = memoryview(content)
    while rest:
        try:
            rest = rest[connection.send(rest) :]
        except TimeoutError:
            clock.tick()


def _receive(connection: socket.socket, size: int, clock: Clock) -> bytearray:
    received = bytearray()
    while len(received) < size:
        try:
            piece = connection.recv(min(size - len(received), _PIECE))
        except TimeoutError:
            clock.tick()
            continue
        if not piece:
            raise EOFError
        received += piece
    return received
