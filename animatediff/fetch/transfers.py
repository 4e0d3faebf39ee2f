"""Downloads on threads of their own, which end when nobody waits for them any more.

A job never blocks in the network itself. A name server, a handshake, or a server that
sends one byte a second may hold the thread of a transfer for as long as they like; the
job beside it looks at its deadline ten times a second. When the last job that waits has
left, or the transfer is too slow, its sockets are shut, and what blocks in them ends.

Jobs that want the same thing at the same time share one transfer.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from contextvars import ContextVar
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from ..deadline import POLL, Deadline
from ..progress import Progress, Report
from .rules import DownloadRules, unavailable

WINDOW = 20.0
"""Seconds over which the rate of a transfer is measured."""
CLEANUP_SECONDS = 1.0
"""Seconds that a job waits for a transfer to put away what it leaves."""
T = TypeVar("T")
_CURRENT: "ContextVar[Transfer[Any] | None]" = ContextVar("transfer", default=None)
_RUNNING: "dict[Hashable, Transfer[Any]]" = {}
_LOCK = threading.Lock()


class TransferEnded(BaseException):
    """Ends the thread of a transfer that nobody waits for.

    No ``except Exception`` of a library may take it for a failure and try again.
    """


class Meter:
    """Counts the bytes of a transfer in the time in which a server must send."""

    def __init__(self) -> None:
        self._total = 0
        self._mark: tuple[float, int] | None = None

    def begin(self) -> None:
        """From now on a server must send."""
        if self._mark is None:
            self._mark = (time.monotonic(), self._total)

    def end(self) -> None:
        """From now on no server must send."""
        self._mark = None

    def add(self, count: int) -> None:
        """Count bytes that came."""
        self._total += count

    def slow_rate(self, lowest: int) -> float | None:
        """Return the bytes a second of a whole window, if they are too few."""
        mark, now = self._mark, time.monotonic()
        if mark is None or now - mark[0] < WINDOW:
            return None
        self._mark = (now, self._total)
        rate = (self._total - mark[1]) / (now - mark[0])
        return rate if rate < lowest else None


class Transfer(Generic[T]):
    """One download: ``work`` on its own thread. ``name`` is for messages."""

    def __init__(
        self, name: str, rules: DownloadRules, work: "Callable[[Transfer[T]], T]"
    ) -> None:
        self.meter = Meter()
        self._name = name
        self._rules = rules
        self._work = work
        self._result: Future[T] = Future()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._jobs: list[SimpleQueue[Progress | None]] = []
        self._last: Progress | None = None
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="transfer", daemon=True)
        self._thread.start()

    # on the thread of the transfer

    def report(self, progress: Progress) -> None:
        """Pass ``progress`` on to the jobs. Raises TransferEnded."""
        self.check()
        with self._lock:
            self._last = progress
            for job in self._jobs:
                job.put(progress)

    def check(self) -> None:
        """Raise TransferEnded if nobody waits any more."""
        if self._over.is_set():
            raise TransferEnded

    def pause(self, seconds: float) -> None:
        """Wait before another attempt. Raises TransferEnded."""
        self.meter.end()
        self._over.wait(seconds)
        self.check()

    def watch(self, connection: socket.socket) -> None:
        """Shut ``connection`` when the transfer ends.

        What is shut is a duplicate, because TLS takes the socket over.
        """
        twin = socket.socket(fileno=os.dup(connection.fileno()))
        with self._lock:
            self._sockets.append(twin)
        if self._over.is_set():
            self._shut()

    def _run(self) -> None:
        _CURRENT.set(self)
        try:
            self._end_with(self._work(self))
        except BaseException as error:  # noqa: BLE001 - the jobs get it
            self._fail(error)
        finally:
            self._over.set()
            with self._lock:
                for twin in self._sockets:
                    twin.close()
                self._sockets.clear()

    # on the threads of jobs

    def join(self) -> "SimpleQueue[Progress | None]":
        """Wait for the transfer, as one job more."""
        job: SimpleQueue[Progress | None] = SimpleQueue()
        with self._lock:
            self._jobs.append(job)
            if self._last is not None:
                job.put(self._last)
        if self._result.done():
            job.put(None)
        return job

    def leave(self, job: "SimpleQueue[Progress | None]") -> None:
        """Wait no more. The transfer of the last job ends."""
        with _LOCK, self._lock:
            self._jobs.remove(job)
            if self._jobs:
                return
            self._over.set()
        self._shut()
        self._thread.join(CLEANUP_SECONDS)

    def wait(
        self, job: "SimpleQueue[Progress | None]", report: Report, deadline: Deadline
    ) -> T:
        """Return the result. Raises as the transfer and as ``deadline`` do."""
        while True:
            deadline.check()
            self._check_pace()
            try:
                progress = job.get(timeout=POLL)
            except Empty:
                continue
            if progress is None:
                return self._result.result()
            report(progress)

    @property
    def is_over(self) -> bool:
        """Whether the transfer has ended, or is about to."""
        return self._over.is_set()

    def _check_pace(self) -> None:
        most, lowest = self._rules.max_seconds, self._rules.min_rate
        with self._lock:
            rate = self.meter.slow_rate(lowest)
        if rate is not None:
            self._give_up(
                f"comes too slowly: {rate:.0f} bytes a second over {WINDOW:g} s, at"
                f" least {lowest} are needed"
            )
        elif time.monotonic() - self._began > most:
            self._give_up(f"could not be fetched within {most:g} s")

    def _give_up(self, text: str) -> None:
        # The jobs get this error, not the one that their transfer ends with.
        self._fail(unavailable(self._name, text, retryable=True))
        self._over.set()
        self._shut()

    def _end_with(self, result: T) -> None:
        with suppress(InvalidStateError):
            self._result.set_result(result)
        self._tell()

    def _fail(self, error: BaseException) -> None:
        with suppress(InvalidStateError):
            self._result.set_exception(error)
        self._tell()

    def _tell(self) -> None:
        with self._lock:
            for job in self._jobs:
                job.put(None)

    def _shut(self) -> None:
        with self._lock:
            for twin in self._sockets:
                with suppress(OSError):  # the server has closed it
                    twin.shutdown(socket.SHUT_RDWR)


def current() -> Transfer[Any] | None:
    """Return the transfer whose thread this is."""
    return _CURRENT.get()


def shared(
    key: Hashable,
    transfer: Callable[[], Transfer[T]],
    report: Report,
    deadline: Deadline,
) -> T:
    """Return the result of the transfer of ``key``: the one that runs, or a new one.

    Raises as the transfer and as ``deadline`` do.
    """
    with _LOCK:
        running: Transfer[T] | None = _RUNNING.get(key)
        if running is None or running.is_over:
            running = _RUNNING[key] = transfer()
        job = running.join()
    try:
        with deadline.phase("download"):
            return running.wait(job, report, deadline)
    finally:
        running.leave(job)
        with _LOCK:
            if _RUNNING.get(key) is running and running.is_over:
                del _RUNNING[key]
