"""How far a download is: bytes, reported a few times a second."""

import time

from ..progress import Progress, Report

INTERVAL = 0.25
"""Seconds between two reports."""


class ByteCount:
    """Counts the bytes of one download and reports them.

    ``total`` is 0 until it is known.
    """

    def __init__(self, report: Report) -> None:
        self.done = 0
        self.total = 0
        self._report = report
        self._next_time = 0.0

    def start(self, total: int | None, done: int = 0) -> None:
        """Begin, or begin again, at ``done`` bytes of ``total``."""
        self.total, self.done = total or 0, done
        self._send()

    def add(self, count: int) -> None:
        """Count ``count`` more bytes; reports them if the last report is old enough."""
        self.done += count
        if self.done == self.total or time.monotonic() >= self._next_time:
            self._send()

    def _send(self) -> None:
        self._next_time = time.monotonic() + INTERVAL
        self._report(Progress("download", self.done, self.total))
