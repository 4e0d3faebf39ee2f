"""Threads whose work can be left behind, also by a process at its end."""

import atexit
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any, TypeVar
from weakref import WeakSet

T = TypeVar("T")
END_SECONDS = 15.0
"""Seconds that a process waits at its end for work that was not abandoned."""
_Work = tuple[Future[Any], Callable[[], Any]]


class Threads:
    """At most ``count`` daemon threads that take work in turn.

    Work that hangs can be abandoned: another thread then takes the place of its own.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._work: SimpleQueue[_Work] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._running: set[Future[Any]] = set()
        _pools.add(self)

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Return the coming result of ``work``."""
        future: Future[T] = Future()
        self._work.put((future, work))
        with self._lock:
            if self._threads < self._count:
                self._threads += 1
                self._start()
        return future

    def abandon(self, future: Future[Any]) -> None:
        """Wait no more for running work; its thread ends when the work does."""
        with self._lock:
            if future in self._running:
                self._running.remove(future)
                self._start()

    def settle(self, seconds: float) -> None:
        """Wait for the work that runs. The interpreter must not end amid native code.

        It would take a thread away there, which aborts the process.
        """
        with self._lock:
            running = list(self._running)
        wait(running, seconds)

    def _start(self) -> None:
        threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def _run(self) -> None:
        while self._take():
            pass

    def _take(self) -> bool:
        """Do the next piece of work, and return whether this thread goes on."""
        future, work = self._work.get()
        with self._lock:
            self._running.add(future)
        if future.set_running_or_notify_cancel():
            _complete(future, work)
        with self._lock:
            is_ours = future in self._running
            self._running.discard(future)
        return is_ours


def _complete(future: Future[Any], work: Callable[[], Any]) -> None:
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - whoever waits gets it
        future.set_exception(error)
    else:
        future.set_result(result)


_pools: WeakSet[Threads] = WeakSet()


@atexit.register
def _settle_all() -> None:
    for pool in list(_pools):
        pool.settle(END_SECONDS)
