"""The request for a run of the sampler."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..conditioning.tokens import Embeddings
from ..job.guidance import needs_unconditional


@dataclass(frozen=True)
class AnimationInputs:
    """A request for frames.

    Sizes are in pixels, multiples of 8. Every seed makes one video of the batch. With
    ``sequential_guidance`` the UNet runs on the negative prompt and on the prompt one
    after the other, which needs half the memory and is a little slower.
    """

    prompt: str
    negative_prompt: str = ""
    num_frames: int = 16
    width: int = 512
    height: int = 512
    num_inference_steps: int = 25
    guidance_scale: float = 7.5
    scheduler: str = "ddim"
    seeds: Sequence[int] = (0,)
    clip_skip: int = 0
    embeddings: Embeddings = field(default_factory=dict[str, Tensor])
    sequential_guidance: bool = False

    @property
    def texts(self) -> dict[str, str]:
        """The texts that the model reads, by name: the negative one first, if any."""
        if needs_unconditional(self.guidance_scale):
            return {"negative_prompt": self.negative_prompt, "prompt": self.prompt}
        return {"prompt": self.prompt}
