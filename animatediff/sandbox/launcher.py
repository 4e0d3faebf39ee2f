"""Confine this process, then become a command. Run by its path, without packages.

Its arguments are the parent's id, bytes of memory, seconds of computing (0: no limit)
and the command. A function that Popen runs between fork and exec could do the same, but
it could deadlock, because the parent has threads.
"""

import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends."""
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        sys.exit(1)


def _limit(kind: int, most: int) -> None:
    """Lower a limit; one that is lower already stays."""
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(kind, (most, most))


def main(parent: str, memory: str, cpu: str, *command: str) -> None:
    """Set the limits and run ``command``, whose first word is a path."""
    _die_with(int(parent))
    _limit(resource.RLIMIT_CORE, 0)
    if int(memory):
        _limit(resource.RLIMIT_AS, int(memory))
    if int(cpu):
        _limit(resource.RLIMIT_CPU, int(cpu))
    try:
        os.execv(command[0], command)  # noqa: S606 -- no shell
    except OSError as error:
        sys.exit(error.strerror)


if __name__ == "__main__":
    main(*sys.argv[1:])
