"""The random start of a video.

It is drawn on the CPU, so that a seed gives the same noise on every device.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """Return one CPU generator for each seed, 0..2^64-1."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def draw_latents(
    shape: tuple[int, int, int, int], sources: Sequence[torch.Generator]
) -> Tensor:
    """Draw standard normal noise (b, c, f, h, w), float32, on the CPU.

    Each generator makes one video of ``shape`` (c, f, h, w) in one draw, as the
    published pipeline does: every frame has noise of its own. A video's noise depends
    on its seed alone, whatever else is in the batch.
    """
    return torch.cat([torch.randn((1, *shape), generator=source) for source in sources])
