"""The losses of training, and the noise and timesteps that they are taken at."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..families import DEFAULT
from .config import LossConfig
from .libraries import ddim_scheduler

NUM_TIMESTEPS = int(DEFAULT.noise_schedule["num_train_timesteps"])


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The noise levels of a beta schedule.

    ``alphas_cumprod`` (1000,), float32: the share of the signal's variance that remains
    at each timestep.
    """

    alphas_cumprod: Tensor

    @classmethod
    def of(cls, beta_schedule: str) -> "NoiseSchedule":
        """The schedule named ``beta_schedule``, with betas from 0.00085 to 0.012.

        Motion modules use "linear"; the image model uses "scaled_linear".
        """
        return cls(ddim_scheduler(beta_schedule).alphas_cumprod)

    def scales(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of signal and noise at ``timesteps`` (b,).

        Each is (b, 1, ...), to be multiplied with ``like`` (b, ...).
        """
        kept = self._kept(timesteps, like)
        kept = _broadcastable(kept, like)
        return kept.sqrt(), (1 - kept).sqrt()

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noisy latents (b, ...) at ``timesteps`` (b,): arXiv 2006.11239, eq. 4."""
        signal_scale, noise_scale = self.scales(timesteps, latents)
        return signal_scale * latents + noise_scale * noise

    def snr(self, timesteps: Tensor) -> Tensor:
        """The variance of the signal over that of the noise: (b,)."""
        kept = self._kept(timesteps, timesteps)
        return kept / (1 - kept)

    def _kept(self, timesteps: Tensor, like: Tensor) -> Tensor:
        return self.alphas_cumprod.to(like.device)[timesteps]


def _broadcastable(values: Tensor, like: Tensor) -> Tensor:
    """(b,) -> (b, 1, ...) with as many axes as ``like``."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def place_timestep(place: float, config: LossConfig) -> int:
    """Map ``place``, uniform in 0..1, to a timestep 0..999.

    The share ``emphasis`` of all places falls uniformly into ``emphasis_range``, the
    rest into the whole range.
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
    """Mean square error of each item, in float32: (b, ...) -> (b,).

    ``weights`` are broadcast, and make the mean of each item a weighted one. All items
    count the same.
    """
    squared = (prediction.float() - target.float()) ** 2
    if weights is None:
        return squared.flatten(1).mean(dim=1)
    weights = weights.float().expand_as(squared)
    total = (squared * weights).flatten(1).sum(dim=1)
    return total / weights.flatten(1).sum(dim=1)


def min_snr(losses: Tensor, snr: Tensor, gamma: float | None) -> Tensor:
    """Weight items with little noise less: times min(snr, gamma) / snr.

    arXiv 2303.09556, section 3.4, for epsilon prediction.
    """
    return losses if gamma is None else losses * snr.clamp(max=gamma) / snr


def object_weights(mask: Tensor | None, weight: float) -> Tensor | None:
    """Loss weights: 1, or 1 + ``weight`` for latents that show more than background.

    ``mask`` is (b, 1, f, h, w), with 1 for those latents. The weights have that shape.
    """
    return None if mask is None or weight == 0 else 1 + weight * mask.float()


def huber(prediction: Tensor, target: Tensor, c: float) -> Tensor:
    """Pseudo-Huber distance, averaged within each item: (b, ...) -> (b,).

    arXiv 2310.14189, section 3.3.
    """
    difference = prediction.float() - target.float()
    return ((difference**2 + c**2).sqrt() - c).flatten(1).mean(dim=1)


def edge_weights(pixels: Tensor) -> Tensor:
    """Loss weights of pixels: (b, 3, H, W) -> (b, 1, H, W).

    1 on flat areas, up to 1 + 3 times the contrast at edges, dilated by one pixel.
    """
    blurred = F.avg_pool2d(pixels, 3, 1, 1, count_include_pad=False)
    contrast = (pixels - blurred).abs().amax(dim=1, keepdim=True)
    return 1 + 3 * F.max_pool2d(contrast, 3, 1, 1)


def gaussian_kl(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL divergence of N(mean, exp(logvar)) from N(0, 1): (b, ...) -> (b,).

    Summed within each item. arXiv 1312.6114.
    """
    return 0.5 * (mean**2 + logvar.exp() - 1 - logvar).flatten(1).sum(dim=1)


@dataclass(frozen=True, eq=False)
class ConsistencyGrid:
    """The timesteps of a consistency model: 1000 / n - 1, 2 x 1000 / n - 1, ..., 999.

    For n = 50, diffusers' LCMScheduler starts its steps at these. Source: arXiv
    2310.04378, section 4.3 (skipping).
    """

    schedule: NoiseSchedule
    num_steps: int
    sigma_data: float = 0.5
    timestep_scaling: float = 10.0

    def pair(self, place: float) -> tuple[int, int]:
        """Map ``place`` in 0..1 to a timestep of the grid and its predecessor.

        The predecessor of the first is 0.
        """
        skip = NUM_TIMESTEPS // self.num_steps
        index = min(int(place * self.num_steps), self.num_steps - 1)
        later = (index + 1) * skip - 1
        return later, max(later - skip, 0)

    def boundary(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """The factors c_skip and c_out, which are 1 and 0 at timestep 0.

        arXiv 2303.01469, appendix C, with the scaling of diffusers' LCMScheduler.
        """
        scaled = _broadcastable(timesteps.float() * self.timestep_scaling, like)
        total = scaled**2 + self.sigma_data**2
        return self.sigma_data**2 / total, scaled / total.sqrt()

    def consistent(
        self, noisy: Tensor, noise_pred: Tensor, timesteps: Tensor
    ) -> Tensor:
        """The consistency function: ``noisy`` (b, ...) taken to timestep 0.

        arXiv 2310.04378, equation 4.
        """
        c_skip, c_out = self.boundary(timesteps, noisy)
        return c_skip * noisy + c_out * self.clean(noisy, noise_pred, timesteps)

    def clean(self, noisy: Tensor, noise_pred: Tensor, timesteps: Tensor) -> Tensor:
        """``noisy`` without the noise that is predicted in it."""
        signal_scale, noise_scale = self.schedule.scales(timesteps, noisy)
        return (noisy - noise_scale * noise_pred) / signal_scale

    def ddim(
        self, noisy: Tensor, noise_pred: Tensor, timesteps: Tensor, earlier: Tensor
    ) -> Tensor:
        """One deterministic step from ``timesteps`` to ``earlier``.

        arXiv 2010.02502, equation 12, with eta 0.
        """
        clean = self.clean(noisy, noise_pred, timesteps)
        return self.schedule.add_noise(clean, noise_pred, earlier)
