"""Every scheduler samples a known distribution, on the published noise schedule."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from animatediff import catalog
from animatediff.errors import InvalidRequest
from animatediff.families import SD15
from animatediff.sampling.noise import generators
from animatediff.sampling.schedulers import draws_noise, make_scheduler

# The data are Gaussian, so the best noise prediction is known.
MEAN = 0.7
DEVIATION = 0.4


VELOCITY = {"prediction_type": "v_prediction"}
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


def sampled(
    name: str, steps: int, noise: Mapping[str, Any] | None = None
) -> torch.Tensor:
    """Sample with the exact prediction for data ~ N(MEAN, DEVIATION^2).

    ``noise`` is what the model says of its noise schedule.
    """
    schedule = {**SD15.noise_schedule, **(noise or {})}
    predicts_velocity = schedule["prediction_type"] == "v_prediction"
    scheduler = make_scheduler(name, steps, schedule)
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
        score = (model_input - alpha.sqrt() * MEAN) / variance
        prediction = (1 - alpha).sqrt() * score
        if predicts_velocity:  # arXiv 2202.00512: sqrt(a) eps - sqrt(1 - a) x_0
            data = MEAN + alpha.sqrt() * DEVIATION**2 * score
            prediction = alpha.sqrt() * prediction - (1 - alpha).sqrt() * data
        x = scheduler.step(prediction, timestep, x, **extra).prev_sample
    return x


@pytest.mark.parametrize("name", [name for name in catalog.SCHEDULERS if name != "lcm"])
def test_scheduler_samples_the_data(name: str) -> None:
    x = sampled(name, 150)
    assert x.mean().item() == pytest.approx(MEAN, abs=0.06)
    assert x.std().item() == pytest.approx(DEVIATION, rel=0.12)


def ends_without_signal(name: str) -> bool:
    """Whether a scheduler can sample a model whose last timestep has no signal."""
    scheduler = make_scheduler(name, 9, SD15.noise_schedule)
    return "rescale_betas_zero_snr" in scheduler.config


@pytest.mark.parametrize(
    ("name", "noise"),
    [
        (name, noise)
        for name in catalog.SCHEDULERS
        for noise in (VELOCITY, {**VELOCITY, **ZERO_SNR})
        if name != "lcm" and (noise is VELOCITY or ends_without_signal(name))
    ],
)
def test_models_of_the_velocity_are_sampled_as_such(
    name: str, noise: dict[str, Any]
) -> None:
    x = sampled(name, 150, noise)
    assert x.mean().item() == pytest.approx(MEAN, abs=0.06)
    assert x.std().item() == pytest.approx(DEVIATION, rel=0.12)


@pytest.mark.parametrize(
    "noise",
    [
        VELOCITY,
        {"rescale_betas_zero_snr": True},
        {"timestep_spacing": "trailing"},
        {**VELOCITY, **ZERO_SNR},
    ],
)
def test_ddim_is_the_one_that_diffusers_makes_of_the_config(
    noise: dict[str, Any],
) -> None:
    config = {**SD15.noise_schedule, "clip_sample": False, **noise}
    theirs: Any = DDIMScheduler.from_config(config)
    theirs.set_timesteps(9)
    ours = make_scheduler("ddim", 9, {**SD15.noise_schedule, **noise})
    assert torch.equal(ours.timesteps, theirs.timesteps)
    x = y = torch.randn(1, 4, 2, 8, 8, generator=generators([1])[0])
    for timestep in theirs.timesteps:
        x = ours.step(x.sin(), timestep, x).prev_sample
        y = theirs.step(y.sin(), timestep, y).prev_sample
    assert torch.equal(x, y)
    assert torch.isfinite(x).all()


def test_a_scheduler_that_cannot_end_without_signal_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="scheduler: got pndm, .*ddim, euler") as e:
        make_scheduler("pndm", 9, {**SD15.noise_schedule, **ZERO_SNR})
    assert "pndm" not in e.value.details["allowed"]


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
