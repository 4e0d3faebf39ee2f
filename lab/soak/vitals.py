"""What a worker holds: memory, threads, child processes and open files."""

import re
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
Child = tuple[int, str]
"""A process's id, and the time of its start, which tells it from a later one."""


@dataclass(frozen=True)
class Vitals:
    """A worker at one moment, after ``jobs`` jobs of its life. ``memory`` in bytes."""

    jobs: int
    memory: int
    threads: int
    children: int
    files: int

    def exceeds(self, other: "Vitals") -> bool:
        """Whether this is more than ``other`` in anything but memory."""
        pairs = (
            (self.threads, other.threads),
            (self.children, other.children),
            (self.files, other.files),
        )
        return any(ours > theirs for ours, theirs in pairs)


def measure(pid: int, jobs: int) -> Vitals | None:
    """Return the vitals of a process, or None if it is gone."""
    folder = PROC / str(pid)
    try:
        status = (folder / "status").read_text()
        files = len(list((folder / "fd").iterdir()))
    except OSError:
        return None
    memory = re.search(r"^VmRSS:\s*(\d+) kB", status, re.MULTILINE)
    threads = re.search(r"^Threads:\s*(\d+)", status, re.MULTILINE)
    if memory is None or threads is None:  # it is a zombie
        return None
    children = len(children_of(pid))
    return Vitals(jobs, 1024 * int(memory[1]), int(threads[1]), children, files)


def children_of(pid: int) -> list[Child]:
    """Return the processes that this one started."""
    lists = (PROC / str(pid) / "task").glob("*/children")
    ids = [int(word) for path in lists for word in _text(path).split()]
    return [(child, start) for child in ids if (start := _start(child))]


def lives(child: Child) -> bool:
    """Whether the process is still there. A zombie is not: its work has ended."""
    return _start(child[0]) == child[1]


def _start(pid: int) -> str:
    """Return the time of a living process's start, or an empty text."""
    fields = _text(PROC / str(pid) / "stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] != "Z" else ""


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
