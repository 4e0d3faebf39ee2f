"""Child processes with limits: for foreign content, and for tools that may hang.

``run`` runs a command, such as ffmpeg. ``Sandbox`` is an interpreter without secrets
that answers calls of one function of this package, such as the decoder of pictures.

Both take ``Limits`` and a ``Check``. A child that exceeds a limit is killed, with all
that it started, and ``ChildFailed`` says why. A child is also killed when the check
raises, when this process gets a KeyboardInterrupt, and (by the kernel, on Linux) when
this process dies of whatever signal. It never stays behind as a zombie.
"""

from .calls import Sandbox
from .processes import ChildFailed, Finished, Limits, run

__all__ = ["ChildFailed", "Finished", "Limits", "Sandbox", "run"]
