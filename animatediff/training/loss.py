"""What is asked of a model in training, as functions of tensors: noise, timesteps, and
the errors made over them.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..families import DEFAULT
from .config import LossConfig

NUM_TIMESTEPS = int(DEFAULT.noise_schedule["num_train_timesteps"])


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """``alphas_cumprod`` (1000,), float32: the share of the signal's variance that is
    left at each timestep.
    """

    alphas_cumprod: Tensor

    @classmethod
    def of(cls, beta_schedule: str) -> "NoiseSchedule":
        """The schedule "linear" (motion modules) or "scaled_linear" (image models)."""
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        return cls(
            DDIMScheduler(
                **{**DEFAULT.noise_schedule, "beta_schedule": beta_schedule}
            ).alphas_cumprod
        )

    def scales(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Signal's and noise's factor at ``timesteps`` (b,), each (b, 1, ...) to
        multiply ``like`` (b, ...) with.
        """
        kept = self.alphas_cumprod.to(like.device)[timesteps].reshape(
            -1, *(1,) * (like.ndim - 1)
        )
        return kept.sqrt(), (1 - kept).sqrt()

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """arXiv 2006.11239, equation 4: (b, ...) at ``timesteps`` (b,)."""
        signal_scale, noise_scale = self.scales(timesteps, latents)
        return signal_scale * latents + noise_scale * noise

    def snr(self, timesteps: Tensor) -> Tensor:
        """Signal's variance over noise's: (b,)"""
        kept = self.alphas_cumprod.to(timesteps.device)[timesteps]
        return kept / (1 - kept)


def place_timestep(place: float, config: LossConfig) -> int:
    """``place``, uniform in 0..1, as a timestep 0..999.

    The share ``emphasis`` of all places falls into ``emphasis_range``, uniformly; the
    others into the whole range.
    """
    low, high = config.emphasis_range
    if place < config.emphasis:
        timestep = low + place / config.emphasis * (high - low)
    else:
        timestep = (place - config.emphasis) / (1 - config.emphasis) * NUM_TIMESTEPS
    return min(int(timestep), NUM_TIMESTEPS - 1)


def weighted_mse(
    prediction: Tensor, target: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Mean square of each item, in float32: (b, ...) -> (b,).

    ``weights``, which broadcast, make a mean that is weighted within each item; items
    count alike.
    """
    squared = (prediction.float() - target.float()) ** 2
    if weights is None:
        return squared.flatten(1).mean(dim=1)
    weights = weights.float().expand_as(squared)
    return (squared * weights).flatten(1).sum(dim=1) / weights.flatten(1).sum(dim=1)


def min_snr(losses: Tensor, snr: Tensor, gamma: float | None) -> Tensor:
    """Items with little noise count less: times min(snr, gamma) / snr (arXiv
    2303.09556, section 3.4, epsilon).
    """
    return losses if gamma is None else losses * snr.clamp(max=gamma) / snr


def object_weights(mask: Tensor | None, weight: float) -> Tensor | None:
    """``mask`` (b, 1, f, h, w), 1 for latents that show more than background -> 1, or 1
    + ``weight``, likewise.
    """
    return None if mask is None or weight == 0 else 1 + weight * mask.float()


def huber(prediction: Tensor, target: Tensor, c: float) -> Tensor:
    """Pseudo-Huber distance, averaged within each item: (b, ...) -> (b,). Source: arXiv
    2310.14189, section 3.3.
    """
    difference = prediction.float() - target.float()
    return ((difference**2 + c**2).sqrt() - c).flatten(1).mean(dim=1)


def edge_weights(pixels: Tensor) -> Tensor:
    """1 on flat parts to 1 + 3 times the contrast at edges, dilated by one pixel: (b,
    3, H, W) -> (b, 1, H, W)
    """
    contrast = (
        (pixels - F.avg_pool2d(pixels, 3, 1, 1, count_include_pad=False))
        .abs()
        .amax(dim=1, keepdim=True)
    )
    return 1 + 3 * F.max_pool2d(contrast, 3, 1, 1)


def gaussian_kl(mean: Tensor, logvar: Tensor) -> Tensor:
    """Divergence of N(mean, exp(logvar)) from N(0, 1), summed within each item: (b,
    ...) -> (b,). arXiv 1312.6114.
    """
    return 0.5 * (mean**2 + logvar.exp() - 1 - logvar).flatten(1).sum(dim=1)


@dataclass(frozen=True, eq=False)
class ConsistencyGrid:
    """The timesteps that a consistency model learns to jump between: 1000 / n - 1, 2 x
    1000 / n - 1, ..., 999.

    diffusers' LCMScheduler starts its steps at these, for n = 50. Source: arXiv
    2310.04378, section 4.3 (skipping).
    """

    schedule: NoiseSchedule
    num_steps: int
    sigma_data: float = 0.5
    timestep_scaling: float = 10.0

    def pair(self, place: float) -> tuple[int, int]:
        """``place`` in 0..1 -> a timestep of the grid, and the one before it, 0 before
        the first.
        """
        skip = NUM_TIMESTEPS // self.num_steps
        index = min(int(place * self.num_steps), self.num_steps - 1)
        later = (index + 1) * skip - 1
        return later, max(later - skip, 0)

    def boundary(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """c_skip and c_out, (1, 0) at timestep 0. Source: arXiv 2303.01469, appendix C,
        with LCMScheduler's scaling.
        """
        scaled = (timesteps.float() * self.timestep_scaling).reshape(
            -1, *(1,) * (like.ndim - 1)
        )
        total = scaled**2 + self.sigma_data**2
        return self.sigma_data**2 / total, scaled / total.sqrt()

    def consistent(
        self, noisy: Tensor, noise_pred: Tensor, timesteps: Tensor
    ) -> Tensor:
        """The consistency function: what ``noisy`` (b, ...) becomes at timestep 0
        (arXiv 2310.04378, equation 4).
        """
        c_skip, c_out = self.boundary(timesteps, noisy)
        return c_skip * noisy + c_out * self.clean(noisy, noise_pred, timesteps)

    def clean(self, noisy: Tensor, noise_pred: Tensor, timesteps: Tensor) -> Tensor:
        """What is left of ``noisy`` without the noise that is predicted in it."""
        signal_scale, noise_scale = self.schedule.scales(timesteps, noisy)
        return (noisy - noise_scale * noise_pred) / signal_scale

    def ddim(
        self, noisy: Tensor, noise_pred: Tensor, timesteps: Tensor, earlier: Tensor
    ) -> Tensor:
        """One deterministic step from ``timesteps`` to ``earlier`` (arXiv 2010.02502,
        equation 12, eta 0).
        """
        return self.schedule.add_noise(
            self.clean(noisy, noise_pred, timesteps), noise_pred, earlier
        )
