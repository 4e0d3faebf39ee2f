"""A control: something that adds to the UNet's features at each step."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..models.context import ControlResiduals, total


class Control(Protocol):
    """A control that is ready for one run of the sampler."""

    def residuals(
        self, sample: Tensor, step: int, frames: Sequence[int]
    ) -> ControlResiduals | None:
        """Return what to add to the features of ``sample`` (b, c, f, h, w).

        ``step`` counts from 0; ``frames`` are the places of the sample's frames in the
        clip. None means that the control is at rest.
        """
        ...


@dataclass(frozen=True, eq=False)
class Run:
    """The facts of a run that a control needs before the first step.

    ``embeds`` (b, n, d) are the texts of one pass. ``height`` and ``width`` are those
    of the frames in pixels, ``downscale`` is the number of pixels along a latent's
    side.
    """

    embeds: Tensor
    timesteps: Tensor
    num_frames: int
    height: int
    width: int
    downscale: int


class ControlCondition(Protocol):
    """A control as a user describes it, before a run."""

    @property
    def max_frames(self) -> int | None:
        """The most frames that the control can handle; None for any number."""
        ...

    def prepare(self, run: Run) -> Control:
        """Compute all that is the same in every step. Raises InvalidRequest."""
        ...


def total_residuals(
    controls: Iterable[Control], sample: Tensor, step: int, frames: Sequence[int]
) -> ControlResiduals | None:
    """Add up the residuals of all controls; None if all are at rest."""
    return total(control.residuals(sample, step, frames) for control in controls)
