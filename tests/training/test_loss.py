"""Equations of training against their sources, and against the schedulers that will
sample.
"""

from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from diffusers.training_utils import compute_snr

from animatediff.families import DEFAULT
from animatediff.training import loss
from animatediff.training.config import LossConfig
from animatediff.training.loss import ConsistencyGrid, NoiseSchedule

LINEAR = NoiseSchedule.of("linear")


@pytest.mark.parametrize("betas", ["linear", "scaled_linear"])
def test_noise_is_added_as_the_scheduler_does(betas: str) -> None:
    scheduler: Any = DDIMScheduler(**{**DEFAULT.noise_schedule, "beta_schedule": betas})
    latents, noise, timesteps = (
        torch.randn(3, 4, 2, 8, 8),
        torch.randn(3, 4, 2, 8, 8),
        torch.tensor([0, 400, 999]),
    )
    ours = NoiseSchedule.of(betas).add_noise(latents, noise, timesteps)
    expected = scheduler.add_noise(latents, noise, timesteps)
    assert torch.allclose(ours, expected, atol=1e-5)


def test_min_snr_is_one_for_much_noise_and_less_for_little() -> None:
    timesteps = torch.tensor([10, 300, 900])
    snr = LINEAR.snr(timesteps)
    theirs = compute_snr(DDIMScheduler(**DEFAULT.noise_schedule), timesteps)
    assert torch.allclose(snr, theirs, rtol=1e-3)
    weights = loss.min_snr(torch.ones(3), snr, 5.0)
    assert weights[2] == 1
    assert weights[0] == pytest.approx(5 / float(snr[0]))
    assert torch.equal(loss.min_snr(torch.ones(3), snr, None), torch.ones(3))


def test_timesteps_of_evenly_spread_places() -> None:
    places = (torch.arange(100_000) / 100_000).tolist()
    uniform = [loss.place_timestep(place, LossConfig()) for place in places]
    assert (min(uniform), max(uniform)) == (0, 999)
    assert uniform.count(500) == pytest.approx(100, abs=1)
    config = LossConfig(emphasis=0.6, emphasis_range=(400, 900))
    emphasised = torch.tensor([loss.place_timestep(place, config) for place in places])
    inside = ((emphasised >= 400) & (emphasised < 900)).float().mean()
    assert float(inside) == pytest.approx(0.6 + 0.4 * 0.5, abs=0.001)
    assert (int(emphasised.min()), int(emphasised.max())) == (0, 999)


def test_each_item_counts_alike_whatever_its_weights() -> None:
    prediction, target = torch.zeros(2, 4, 3, 2, 2), torch.ones(2, 4, 3, 2, 2)
    mask = torch.zeros(2, 1, 3, 2, 2)
    mask[0, 0, 0] = 1
    target[0, :, 0] = 3
    weights = loss.object_weights(mask, 3.0)
    assert weights is not None
    assert loss.weighted_mse(prediction, target, weights).tolist() == pytest.approx(
        [(4 * 9 + 2 * 1) / 6, 1.0]
    )
    assert loss.weighted_mse(prediction, target).tolist() == pytest.approx(
        [(9 + 1 + 1) / 3, 1.0]
    )
    assert loss.object_weights(mask, 0.0) is None
    assert loss.object_weights(None, 3.0) is None


def test_half_precision_is_measured_in_float32() -> None:
    prediction = torch.full((1, 4), 300.0, dtype=torch.float16)
    assert loss.weighted_mse(prediction, torch.zeros(1, 4)).tolist() == [
        90_000.0
    ]  # float16 ends at 65,504


def test_huber_is_square_near_and_straight_afar() -> None:
    near, far = loss.huber(
        torch.tensor([[1e-4], [10.0]]), torch.zeros(2, 1), 1e-2
    ).tolist()
    assert near == pytest.approx(1e-8 / 2e-2, rel=0.01)
    assert far == pytest.approx(10 - 1e-2, rel=1e-3)


def test_the_divergence_of_a_standard_normal_is_nothing() -> None:
    assert loss.gaussian_kl(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0
    assert loss.gaussian_kl(torch.ones(1, 4), torch.zeros(1, 4)).item() == 2


def test_edges_count_more() -> None:
    picture = torch.zeros(1, 3, 8, 8)
    picture[..., 4:] = 1
    weights = loss.edge_weights(picture)
    assert weights[0, 0, 4].tolist() == pytest.approx([1, 1, 2, 2, 2, 2, 1, 1])


def test_the_grid_is_where_the_scheduler_steps() -> None:
    grid = ConsistencyGrid(LINEAR, 50)
    pairs = [grid.pair((i + 0.5) / 50) for i in range(50)]
    assert pairs[0] == (19, 0)
    assert pairs[-1] == (999, 979)
    scheduler = LCMScheduler(**DEFAULT.noise_schedule)
    scheduler.set_timesteps(4)
    assert {int(t) for t in scheduler.timesteps} <= {later for later, _ in pairs}


def test_the_boundary_is_the_schedulers() -> None:
    grid, scheduler = (
        ConsistencyGrid(LINEAR, 50),
        LCMScheduler(**DEFAULT.noise_schedule),
    )
    like = torch.zeros(2, 1)
    c_skip, c_out = grid.boundary(torch.tensor([0, 259]), like)
    theirs = scheduler.get_scalings_for_boundary_condition_discrete(259)
    assert (c_skip[0].item(), c_out[0].item()) == (1, 0)
    assert (c_skip[1].item(), c_out[1].item()) == pytest.approx(
        tuple(map(float, theirs))
    )


def test_a_step_of_the_solver_is_ddims() -> None:
    grid, scheduler = (
        ConsistencyGrid(LINEAR, 50),
        DDIMScheduler(**DEFAULT.noise_schedule, clip_sample=False),
    )
    scheduler.set_timesteps(50)  # 20 apart
    noisy, noise = torch.randn(1, 4, 2, 8, 8), torch.randn(1, 4, 2, 8, 8)
    ours = grid.ddim(noisy, noise, torch.tensor([519]), torch.tensor([499]))
    theirs = scheduler.step(noise, 519, noisy).prev_sample  # pyright: ignore
    assert torch.allclose(ours, theirs, atol=1e-5)
