"""The end of a worker's process on SIGTERM: jobs may end, but not for ever."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from .logs import log_event

ANSWER_SECONDS = 10.0
"""Seconds for the answers of stopped jobs, after which the process ends itself."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Shutdown:
    """The reaction to a signal that asks this process to end.

    The SDK then takes no more jobs and waits for those that run, for as long as it
    takes; the platform kills the process some time later. So jobs get ``seconds`` to
    end. Then ``stopped`` is set, which ends them, and soon after the process.
    """

    def __init__(
        self,
        seconds: float,
        stopped: threading.Event,
        leave: Callable[[int], Any] = os._exit,
    ) -> None:
        self._seconds = seconds
        self._stopped = stopped
        self._leave = leave
        self._is_installed = False
        self._has_begun = False

    def install(self) -> None:
        """Act on the signals too, after the handlers that are there by now.

        Only the main thread can; on any other one nothing happens.
        """
        if self._is_installed or threading.current_thread() != threading.main_thread():
            return
        self._is_installed = True
        for number in _SIGNALS:
            signal.signal(number, self._after(signal.getsignal(number)))

    def _after(self, before: Any) -> Callable[[int, FrameType | None], None]:
        def handle(number: int, frame: FrameType | None) -> None:
            self.begin()
            if callable(before):
                before(number, frame)

        return handle

    def begin(self) -> None:
        """Let the jobs end in time."""
        if not self._has_begun:
            self._has_begun = True
            threading.Thread(target=self._end, name="shutdown", daemon=True).start()

    def _end(self) -> None:
        time.sleep(self._seconds)
        self._stopped.set()
        time.sleep(ANSWER_SECONDS)
        log_event("shutdown", level=logging.WARNING, hangs=True)
        self._leave(0)
