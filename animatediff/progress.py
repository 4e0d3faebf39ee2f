"""How far a job is, as one value: what a step, a download or a loading reports.

And whether it must end: a check.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Phase = Literal["download", "load", "encode", "denoise", "decode", "write", "store"]


@dataclass(frozen=True, eq=False)
class Preview:
    """A clip as a step foresees it: small pictures (f, h, w, 3), uint8, on the CPU.

    ``max_bytes`` is the longest data URL that they may become.
    """

    frames: Tensor
    fps: int
    max_bytes: int


@dataclass(frozen=True, eq=False)
class Progress:
    """``step`` of ``total`` in ``phase`` is done.

    Steps are bytes in the phase "download", frames in "decode" and steps of the sampler
    in "denoise"; ``total`` is 0 where it is not known. ``latents`` (b, c, f, h, w) are
    those after a step of the sampler, and ``preview`` is there if the job asked.
    """

    phase: Phase
    step: int
    total: int
    latents: Tensor | None = None
    preview: Preview | None = None


Report = Callable[[Progress], None]
"""Takes a report. May raise, which ends the job."""


def ignore(_progress: Progress) -> None:
    """Take a report and do nothing with it."""


Check = Callable[[], None]
"""Called wherever a job can end: between phases, steps and decoded frames, and while a
child process runs. May raise, which ends the job.
"""


def no_check() -> None:
    """Never end the job."""
