"""The random start of a video. Drawn on the CPU, so that the same seed gives the same
noise on every device.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator a seed, 0..2^64-1."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def draw_latents(
    shape: tuple[int, int, int, int], sources: Sequence[torch.Generator]
) -> Tensor:
    """Normal noise for one video of ``shape`` (c, f, h, w) from each generator: (b, c,
    f, h, w), float32, on the CPU.

    All frames of a video come from one draw, each with noise of its own, as in the
    published pipeline. A video's noise depends on its own seed alone, whatever else is
    in the batch.
    """
    return torch.cat([torch.randn((1, *shape), generator=source) for source in sources])
