"""The previews of one run of the sampler."""

from dataclasses import dataclass, replace

from ..progress import Preview, Progress
from ..transfers import Arriving, SideCopies
from .sketches import Sketch


@dataclass(frozen=True, eq=False)
class Previews:
    """Shows the latents after every ``every``-th step by ``sketch``.

    ``fps`` and ``max_bytes`` are those of ``Preview``.
    """

    sketch: Sketch
    copies: SideCopies
    every: int
    fps: int
    max_bytes: int

    def added(self, done: Progress) -> tuple[Progress, Arriving | None]:
        """Return ``done`` with a preview of its first clip, if it is due.

        The pictures are those that arrive.
        """
        if done.latents is None or done.step % self.every:
            return done, None
        arriving = self.copies.receive(self.sketch(done.latents[0]))
        preview = Preview(arriving.tensor, self.fps, self.max_bytes)
        return replace(done, preview=preview), arriving
