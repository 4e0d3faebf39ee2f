"""How much device memory a clip takes, without trying: weights, and the largest set of
tensors alive at one time.

The factors were counted on the real architecture, operator by operator (``python -m
lab.counting.memory``; a test holds them against the count). Not in them: the
allocator's gaps and the kernels' work space. So what is refused here could not have
run, and what is not refused can still run out of memory.
"""

import math
from dataclasses import dataclass, replace

from .errors import InvalidRequest

DENOISE_VALUES = 25.1
"""Of a UNet's pass: values alive at the peak (a motion module's feed-forward in the
last up block), for each text, frame and latent position, in units of the first level's
width.
"""
RESIDUAL_VALUES = 5.7
"""What SparseCtrl adds to that, for all branches of a job: their residuals, in the same
units.
"""
CONDITION_VALUES = 1.0
"""An embedded SparseCtrl condition, for each branch, frame and latent position, in the
same units.
"""
DECODE_VALUES = 6.1
"""Of the VAE's decoder: values alive at the peak, for each frame decoded at once and
pixel, in units of its first width.
"""
CONTEXT_BYTES = 2**29
"""Taken from a card's memory: the driver's context and the libraries' handles. An
assumption: no GPU was measured.
"""
STEP = 8
"""Widths and heights are multiples of it, and latents are smaller by it."""
SMALLEST = 64
"""Of the widths and heights that are suggested, in pixels."""


@dataclass(frozen=True)
class Work:
    """What of a job decides its memory. Sizes in pixels; ``texts``: 2 with guidance,
    else 1.
    """

    num_frames: int
    width: int
    height: int
    texts: int = 2
    controls: int = 0


@dataclass(frozen=True)
class MemoryModel:
    """A model as memory sees it: first widths of the UNet and of the VAE, bytes of a
    number, bytes of all weights.
    """

    unet_width: int
    vae_width: int
    value_bytes: int
    weight_bytes: int

    def needed(self, work: Work, decode_chunk: int) -> int:
        """Bytes at the peak, with all texts in one pass and ``decode_chunk`` frames
        decoded at once.
        """
        return self._bytes(
            work, passes=1, decode_chunk=min(decode_chunk, work.num_frames)
        )

    def needed_lean(self, work: Work) -> int:
        """Bytes at the peak, with one text a pass and one frame decoded at once: the
        least there is.
        """
        return self._bytes(work, passes=work.texts, decode_chunk=1)

    def _bytes(self, work: Work, *, passes: int, decode_chunk: int) -> int:
        positions = work.num_frames * (work.width // STEP) * (work.height // STEP)
        values = (
            work.texts
            / passes
            * (DENOISE_VALUES + (RESIDUAL_VALUES if work.controls else 0))
        )
        values += passes * work.controls * CONDITION_VALUES
        denoise = values * positions * self.unet_width
        decode = (
            DECODE_VALUES * decode_chunk * work.width * work.height * self.vae_width
        )
        return self.weight_bytes + int(max(denoise, decode) * self.value_bytes)

    def check(self, work: Work, room: int) -> None:
        """Raises InvalidRequest for ``work`` that does not fit into ``room`` bytes; it
        names what would.
        """
        needed = self.needed_lean(work)
        if needed <= room:
            return
        raise InvalidRequest(
            "num_frames, width, height",
            f"{work.num_frames} frames of {work.width}x{work.height}, at least"
            f" {needed / 1e9:.2f} GB",
            f"{self._suggestion(work, room)}: {room / 1e9:.2f} GB are there,"
            f" {self.weight_bytes / 1e9:.2f} GB of them"
            " for the weights",
        )

    def _suggestion(self, work: Work, room: int) -> str:
        fitting = []
        if size := self.largest_size(work, room):
            fitting.append(f"up to {size[0]}x{size[1]} at {work.num_frames} frames")
        if frames := self.most_frames(work, room):
            fitting.append(f"up to {frames} frames at {work.width}x{work.height}")
        return ", ".join(fitting) or "nothing of this kind"

    def largest_size(self, work: Work, room: int) -> tuple[int, int] | None:
        """The largest width and height of the same aspect that fit, multiples of 8;
        None if not even the smallest.
        """
        spare, used = (
            room - self.weight_bytes,
            self.needed_lean(work) - self.weight_bytes,
        )
        if spare <= 0:
            return None
        scale = math.sqrt(spare / used)  # both parts grow as the area does
        width, height = (
            int(side * scale) // STEP * STEP for side in (work.width, work.height)
        )
        return (width, height) if min(width, height) >= SMALLEST else None

    def most_frames(self, work: Work, room: int) -> int:
        """The most frames that fit at the same size; 0 if not even one does."""
        one = replace(work, num_frames=1)
        if self.needed_lean(one) > room:
            return 0
        a_frame = (
            self._bytes(one, passes=work.texts, decode_chunk=0) - self.weight_bytes
        )
        frames = (room - self.weight_bytes) // a_frame
        return (
            frames
            if self.needed_lean(replace(one, num_frames=frames)) <= room
            else frames - 1
        )  # bytes are rounded
