"""The previews of one run of the sampler."""

from dataclasses import dataclass, replace

from torch import Tensor

from ..progress import Preview, Progress
from ..transfers import Arriving, SideCopies
from .sketches import Sketch


@dataclass(frozen=True, eq=False)
class Previews:
    """Shows by ``sketch`` what every ``every``-th step foresees.

    ``fps`` and ``max_bytes`` are those of ``Preview``.
    """

    sketch: Sketch
    copies: SideCopies
    every: int
    fps: int
    max_bytes: int

    def are_due(self, done: Progress) -> bool:
        """Whether this step has a preview."""
        return done.step % self.every == 0

    def added(self, done: Progress, foreseen: Tensor) -> tuple[Progress, Arriving]:
        """Return ``done`` with a preview of the first clip of ``foreseen`` latents.

        They are (b, c, f, h, w). The pictures are those that arrive.
        """
        arriving = self.copies.receive(self.sketch(foreseen[0]))
        preview = Preview(arriving.tensor, self.fps, self.max_bytes)
        return replace(done, preview=preview), arriving
