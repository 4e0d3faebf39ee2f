"""A job of the local queue, and its states."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """The state of a job, by RunPod's names."""

    QUEUED = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def final(self) -> bool:
        """Whether the job has ended."""
        return self not in (State.QUEUED, State.IN_PROGRESS)


@dataclass
class Job:
    """A job. Times are seconds of time.monotonic().

    ``workers``: all workers that took it, in their order. ``taken``: when the last one
    did. ``progress``: the last that came. ``webhook``: a URL that its end is sent to.
    """

    id: str
    input: Any
    submitted: float
    webhook: str | None = None
    state: State = State.QUEUED
    taken: float | None = None
    progress: Any = None
    workers: list[str] = field(default_factory=list)
    output: Any = None
    error: str | None = None
    stop_pod: bool = False
    ended: float | None = None

    @property
    def worker(self) -> str | None:
        """The worker that has the job, or had it last."""
        return self.workers[-1] if self.workers else None
