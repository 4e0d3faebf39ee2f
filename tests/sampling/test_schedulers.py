"""Every scheduler samples a known distribution, on the published noise schedule."""

import math

import pytest
import torch

from animatediff import catalog
from animatediff.families import SD15
from animatediff.sampling.noise import generators
from animatediff.sampling.schedulers import draws_noise, make_scheduler

# The data are Gaussian, so the best noise prediction is known.
MEAN = 0.7
DEVIATION = 0.4


def sampled(name: str, steps: int) -> torch.Tensor:
    """Sample with the exact noise prediction for data ~ N(MEAN, DEVIATION^2)."""
    scheduler = make_scheduler(name, steps, SD15.noise_schedule)
    source = generators([0])
    x = torch.randn(1, 1, 1, 100, 100, generator=source[0]) * scheduler.init_noise_sigma
    extra = {"generator": source} if draws_noise(scheduler) else {}
    for timestep in scheduler.timesteps:
        model_input = scheduler.scale_model_input(x, timestep)
        t = float(timestep)
        low, high = math.floor(t), math.ceil(t)
        alpha = scheduler.alphas_cumprod[low].lerp(
            scheduler.alphas_cumprod[high], t - low
        )
        # score of the noised data, arXiv 2011.13456:
        # x_t = sqrt(a) x_0 + sqrt(1 - a) eps
        variance = alpha * DEVIATION**2 + 1 - alpha
        noise = (1 - alpha).sqrt() * (model_input - alpha.sqrt() * MEAN) / variance
        x = scheduler.step(noise, timestep, x, **extra).prev_sample
    return x


@pytest.mark.parametrize("name", [name for name in catalog.SCHEDULERS if name != "lcm"])
def test_scheduler_samples_the_data(name: str) -> None:
    x = sampled(name, 150)
    assert x.mean().item() == pytest.approx(MEAN, abs=0.06)
    assert x.std().item() == pytest.approx(DEVIATION, rel=0.12)


def test_lcm_goes_to_the_mean() -> None:
    """LCM treats a prediction as a jump to clean data, here close to the mean."""
    assert sampled("lcm", 4).mean().item() == pytest.approx(MEAN, abs=0.1)


@pytest.mark.parametrize("name", catalog.SCHEDULERS)
def test_noise_schedule_is_that_of_the_motion_modules(name: str) -> None:
    betas = make_scheduler(name, 10, SD15.noise_schedule).betas
    assert torch.allclose(betas, torch.linspace(0.00085, 0.012, 1000))


@pytest.mark.parametrize("name", catalog.SCHEDULERS)
def test_timesteps_stay_on_the_cpu(name: str) -> None:
    assert make_scheduler(name, 10, SD15.noise_schedule).timesteps.device.type == "cpu"


def test_ddim_is_the_published_one() -> None:
    scheduler = make_scheduler("ddim", 25, SD15.noise_schedule)
    assert scheduler.timesteps.tolist() == list(range(961, 0, -40))
    assert scheduler.config.clip_sample is False
    assert float(scheduler.final_alpha_cumprod) == 1.0


def test_trailing_starts_at_the_last_timestep() -> None:
    assert make_scheduler(
        "euler_trailing", 4, SD15.noise_schedule
    ).timesteps.tolist() == [
        999,
        749,
        499,
        249,
    ]
