"""The request for a run of the sampler."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

from ..conditioning.tokens import Embeddings
from ..job.clip import SamplerFields


@dataclass(frozen=True)
class AnimationInputs(SamplerFields):
    """A request for frames: the fields of a job that the models read, and what follows.

    Sizes are in pixels, multiples of 8. Every seed makes one video of the batch. With
    ``sequential_guidance`` the UNet runs on the negative prompt and on the prompt one
    after the other, which needs half the memory and is a little slower.
    """

    seeds: Sequence[int] = (0,)
    embeddings: Embeddings = field(default_factory=dict[str, Tensor])
    sequential_guidance: bool = False

    @classmethod
    def of(cls, source: SamplerFields, **others: Any) -> "AnimationInputs":
        """Return the inputs with the fields of ``source``; ``others`` by name."""
        shared = {
            item.name: getattr(source, item.name) for item in fields(SamplerFields)
        }
        return cls(**shared, **others)
