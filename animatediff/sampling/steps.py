"""The steps of one run of a sampler, and how many there are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..transfers import send
from .schedulers import draws_noise, make_scheduler

_LEAST_SHARE = 1e-6
"""Of the picture, where a schedule begins with noise alone."""


@dataclass(frozen=True, eq=False)
class Steps:
    """A scheduler that is set to its timesteps, and the noise that it may add.

    ``generators`` has one generator a video.
    """

    scheduler: Any
    generators: Sequence[torch.Generator]

    @property
    def timesteps(self) -> Tensor:
        """The timestep of each step, (t,), on the CPU."""
        return self.scheduler.timesteps

    @property
    def total(self) -> int:
        """The number of steps; some schedulers need more than the user asked for."""
        return len(self.timesteps)

    @property
    def initial_scale(self) -> float:
        """The factor that turns standard normal noise into the first latents."""
        return float(self.scheduler.init_noise_sigma)

    def model_input(self, latents: Tensor, step: int) -> Tensor:
        """Scale the latents as the model expects them at ``step`` (from 0)."""
        return self.scheduler.scale_model_input(latents, self.timesteps[step])

    def foreseen(self, noise_pred: Tensor, step: int, sample: Tensor) -> Tensor:
        """Return the finished latents that ``step`` foresees, free of noise.

        ``sample`` is the model's input and ``noise_pred`` its answer. Noise is taken
        out by the equation of the diffusion, x = alpha x0 + sigma eps (arXiv
        2006.11239, equation 4), or by that of v = alpha eps - sigma x0 (arXiv
        2202.00512).
        """
        alpha, sigma = self._mixture(step)
        if self.scheduler.config.prediction_type == "v_prediction":
            return alpha * sample - sigma * noise_pred
        return (sample - sigma * noise_pred) / alpha

    def _mixture(self, step: int) -> tuple[float, float]:
        """The shares of the picture and of noise in the model's input at ``step``."""
        if hasattr(self.scheduler, "sigmas"):  # noise by the picture
            share = 1 / (1 + float(self.scheduler.sigmas[step]) ** 2)
        else:
            share = float(self.scheduler.alphas_cumprod[int(self.timesteps[step])])
        share = max(share, _LEAST_SHARE)
        return share**0.5, (1 - share) ** 0.5

    def advance(self, noise_pred: Tensor, step: int, latents: Tensor) -> Tensor:
        """Return the latents after ``step``, given the predicted noise."""
        extra = {}
        if draws_noise(self.scheduler):
            extra["generator"] = list(self.generators)
        timestep = self.timesteps[step]
        with _SentNoise(latents.device):
            step_of = self.scheduler.step(noise_pred, timestep, latents, **extra)
        return step_of.prev_sample


class _SentNoise(TorchFunctionMode):
    """Send noise that a scheduler draws to its device without a wait.

    The generators are the CPU's. It draws while the device computes the step.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        return send(result, self._device) if func is torch.randn else result


def make_steps(
    scheduler: str,
    num_inference_steps: int,
    noise_schedule: Mapping[str, Any],
    generators: Sequence[torch.Generator],
) -> Steps:
    """Return the steps of the catalog's ``scheduler`` on a family's noise schedule."""
    return Steps(
        make_scheduler(scheduler, num_inference_steps, noise_schedule), generators
    )
