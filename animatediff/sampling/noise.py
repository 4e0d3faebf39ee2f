"""The random start of a video.

It is drawn on the CPU, so that a seed gives the same noise on every device.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..job.windows import Layout


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


def repeated(
    noise: Tensor, layout: Layout, sources: Sequence[torch.Generator]
) -> Tensor:
    """Return ``noise`` (b, c, f, h, w) with that of the first window repeated.

    Source: FreeNoise (arXiv 2310.15169, section 3.2). Each video is shuffled by its own
    generator.
    """
    videos = [
        video[:, repeated_places(layout, source)]
        for video, source in zip(noise, sources, strict=True)
    ]
    return torch.stack(videos)


def repeated_places(layout: Layout, source: torch.Generator) -> list[int]:
    """Return, for each frame of a clip, the frame whose noise it gets.

    After the first window, as many frames as a window adds get the noise of those that
    lie a window's length before them, in another order.
    """
    added = layout.length - layout.overlap
    places = list(range(layout.length))
    while len(places) < layout.num_frames:
        start = len(places) - layout.length
        order = torch.randperm(added, generator=source)
        places += [places[start + int(place)] for place in order]
    return places[: layout.num_frames]
