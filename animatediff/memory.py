"""How much device memory a clip needs. Arithmetic only; nothing is allocated.

It is the size of all weights and of the largest set of tensors alive at one time.

The factors (``Family.memory``) were counted operator by operator on the real
architecture. They leave out gaps in the allocator and the kernels' work space, so the
result is a lower bound: a job that exceeds it could not have run, and a job below it
may still run out of memory.
"""

import math
from dataclasses import dataclass, replace

from .errors import InvalidRequest
from .families import Family

SMALLEST_SIDE = 64
"""The smallest width or height to suggest, in pixels."""


FLOAT32_BYTES = 4
MOST_DECODED = 16
"""The most frames to decode at once: progress and a cancel wait for them."""
DECODER_VALUES = 2**31
"""The numbers of a tensor at which kernels count in 64 bits, or split their work."""
DECODER_SHARE = 0.8
"""The part of the room that a chunk of frames may take, weights included."""


@dataclass(frozen=True)
class Work:
    """The values of a job that decide its memory.

    Sizes are in pixels. ``texts`` is 2 with guidance, else 1. ``window`` is the number
    of frames that the UNet runs on at once; None for all of them.
    """

    num_frames: int
    width: int
    height: int
    texts: int = 2
    controls: int = 0
    window: int | None = None


@dataclass(frozen=True)
class MemoryModel:
    """The values of a loaded model that decide its memory.

    ``unet_width`` and ``vae_width`` are the channels of the first level,
    ``value_bytes`` the size of one number, ``weight_bytes`` the size of all weights.
    ``float32_decoder`` is the size of the decoder's weights in float32, if they are
    copied to decode one frame after the other; 0 otherwise.
    """

    family: Family
    unet_width: int
    vae_width: int
    value_bytes: int
    weight_bytes: int
    float32_decoder: int = 0

    def needed(self, work: Work, decode_chunk: int) -> int:
        """Bytes at the peak, with all texts in one pass.

        ``decode_chunk`` frames are decoded at once.
        """
        frames = min(decode_chunk, work.num_frames)
        return self._bytes(work, passes=1, decode_chunk=frames)

    def needed_lean(self, work: Work) -> int:
        """Bytes at the peak of the leanest way: one text a pass, one frame decoded."""
        return self._bytes(work, passes=work.texts, decode_chunk=1)

    def _bytes(self, work: Work, *, passes: int, decode_chunk: int) -> int:
        denoise = self._denoise(work, passes) * self.value_bytes
        return self.weight_bytes + int(max(denoise, self._decode(work, decode_chunk)))

    def _denoise(self, work: Work, passes: int) -> float:
        factors, side = self.family.memory, self.family.pixels_per_latent
        window = min(work.window or work.num_frames, work.num_frames)
        pass_values = factors.denoise + (factors.residuals if work.controls else 0)
        values = work.texts / passes * pass_values * window
        values += passes * work.controls * factors.condition * work.num_frames
        return values * (work.width // side) * (work.height // side) * self.unet_width

    def _decode(self, work: Work, decode_chunk: int) -> float:
        frame = self.family.memory.decode * work.width * work.height * self.vae_width
        if self.float32_decoder:
            return self.float32_decoder + frame * FLOAT32_BYTES
        return decode_chunk * frame * self.value_bytes

    def decode_chunk(self, work: Work, room: int) -> int | None:
        """The frames that may be decoded at once; None if not even one fits ``room``.

        A part of the room stays free, because the estimate is a lower bound.
        """
        if self.needed(work, 1) > room:
            return None
        largest = DECODER_VALUES // (2 * self.vae_width * work.width * work.height)
        for frames in range(min(work.num_frames, largest, MOST_DECODED), 1, -1):
            decode = self._decode(work, frames)
            if self.weight_bytes + decode <= DECODER_SHARE * room:
                return frames
        return 1

    def check(self, work: Work, room: int) -> None:
        """Do nothing if ``work`` fits into ``room`` bytes.

        Raises InvalidRequest if it does not; the message has the sizes that would fit.
        """
        needed = self.needed_lean(work)
        if needed <= room:
            return
        raise InvalidRequest(
            "num_frames, width, height",
            f"{work.num_frames} frames of {work.width}x{work.height}, which need at"
            f" least {needed / 1e9:.2f} GB",
            f"{self._suggestion(work, room)}: the device has {room / 1e9:.2f} GB, of"
            f" which the weights take {self.weight_bytes / 1e9:.2f} GB",
        )

    def _suggestion(self, work: Work, room: int) -> str:
        suggestions: list[str] = []
        if size := self.largest_size(work, room):
            suggestions.append(f"up to {size[0]}x{size[1]} at {work.num_frames} frames")
        if frames := self.most_frames(work, room):
            suggestions.append(f"up to {frames} frames at {work.width}x{work.height}")
        return ", ".join(suggestions) or "no job of this kind"

    def largest_size(self, work: Work, room: int) -> tuple[int, int] | None:
        """The largest width and height of the same aspect that fit into ``room`` bytes.

        Both are multiples of ``Family.pixels_per_latent``. None if not even the
        smallest size fits.
        """
        spare = room - self.weight_bytes
        if spare <= 0:
            return None
        used = self.needed_lean(work) - self.weight_bytes
        scale = math.sqrt(spare / used)  # both parts grow as the area does
        width = self._scaled(work.width, scale)
        height = self._scaled(work.height, scale)
        return (width, height) if min(width, height) >= SMALLEST_SIDE else None

    def _scaled(self, side: int, scale: float) -> int:
        step = self.family.pixels_per_latent
        return int(side * scale) // step * step

    def most_frames(self, work: Work, room: int) -> int:
        """The most frames of the same size that fit; 0 if not even one does."""
        one = replace(work, num_frames=1)
        if self.needed_lean(one) > room:
            return 0
        without_decoding = self._bytes(one, passes=work.texts, decode_chunk=0)
        frame_bytes = without_decoding - self.weight_bytes
        frames = (room - self.weight_bytes) // frame_bytes
        is_within = self.needed_lean(replace(one, num_frames=frames)) <= room
        return frames if is_within else frames - 1  # bytes are rounded
