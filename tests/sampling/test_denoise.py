import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from animatediff.catalog import SCHEDULERS
from animatediff.errors import NonFiniteLatents
from animatediff.families import SD15
from animatediff.job.guidance import needs_unconditional
from animatediff.job.windows import Layout
from animatediff.progress import Progress
from animatediff.sampling.denoise import denoise
from animatediff.sampling.guidance import guide
from animatediff.sampling.noise import draw_latents, generators, repeated
from animatediff.sampling.steps import make_steps

SHAPE = (4, 3, 2, 2)
VELOCITY = {"prediction_type": "v_prediction"}
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


def test_video_depends_on_its_own_seed_alone() -> None:
    together = draw_latents(SHAPE, generators([1, 2]))
    assert torch.equal(together[1:], draw_latents(SHAPE, generators([2])))
    assert not torch.equal(together[0], together[1])
    assert torch.equal(
        together[:1], torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1))
    )


@pytest.mark.parametrize("seed", [0, 2**63, 2**64 - 1])
def test_every_seed_can_be_drawn(seed: int) -> None:
    assert draw_latents(SHAPE, generators([seed])).isfinite().all()


def test_guidance_is_the_papers_equation() -> None:
    noise_pred = torch.tensor([[1.0], [3.0]])
    assert guide(noise_pred, 7.5).item() == 1 + 7.5 * 2
    assert [needs_unconditional(scale) for scale in (0, 1, 1.01)] == [
        False,
        False,
        True,
    ]


@pytest.mark.parametrize("noise", [{}, VELOCITY], ids=["epsilon", "velocity"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_step_foresees_the_clip(name: str, noise: dict[str, str]) -> None:
    """The model's input is mixed of a picture and noise, and the answer is exact."""
    steps = make_steps(name, 6, {**SD15.noise_schedule, **noise}, generators([0]))
    picture, eps = torch.randn(2, 1, *SHAPE, generator=generators([1])[0]).double()
    for step, timestep in enumerate(steps.timesteps):
        alpha, sigma = mixture(steps.scheduler, float(timestep), step)
        sample = alpha * picture + sigma * eps
        answer = alpha * eps - sigma * picture if noise else eps
        foreseen = steps.foreseen(answer, step, sample)
        torch.testing.assert_close(foreseen, picture, atol=2e-3, rtol=0)


def mixture(scheduler: Any, timestep: float, step: int) -> tuple[float, float]:
    """The shares of picture and noise at a timestep, which may lie between two."""
    if scheduler.config.get("use_karras_sigmas"):  # its timesteps are rounded
        alpha = (1 + scheduler.sigmas[step].item() ** 2) ** -0.5
    else:
        below, above = math.floor(timestep), math.ceil(timestep)
        log_sigmas = [log_sigma(scheduler, each) for each in (below, above)]
        between = log_sigmas[0] + (timestep - below) * (log_sigmas[1] - log_sigmas[0])
        alpha = (1 + math.exp(2 * between)) ** -0.5
    return alpha, (1 - alpha**2) ** 0.5


def log_sigma(scheduler: Any, timestep: int) -> float:
    share = scheduler.alphas_cumprod[timestep].item()
    return 0.5 * math.log((1 - share) / share)


def test_a_step_from_noise_alone_foresees_numbers() -> None:
    steps = make_steps("ddim", 4, {**SD15.noise_schedule, **ZERO_SNR}, generators([0]))
    foreseen = steps.foreseen(torch.ones(1, *SHAPE), 0, torch.zeros(1, *SHAPE))
    assert foreseen.isfinite().all()


@pytest.mark.parametrize("bad_step", [0, 2, 4])
def test_step_of_the_first_nan_is_named(bad_step: int) -> None:
    def predict(sample: torch.Tensor, step: int, frames: Sequence[int]) -> torch.Tensor:
        assert frames == range(SHAPE[1])
        return sample * (float("nan") if step == bad_step else 0.1)

    steps = make_steps("ddim", 5, SD15.noise_schedule, generators([0]))
    with pytest.raises(NonFiniteLatents) as caught:
        denoise(torch.ones(1, *SHAPE), steps, predict)
    assert caught.value.details == {"step": bad_step, "where": "latents"}


def tenth(sample: torch.Tensor, *_: object) -> torch.Tensor:
    return 0.1 * sample


def test_no_step_waits_for_the_device() -> None:
    """A tensor becomes a Python number only after the last step."""
    reads: list[int] = []

    class Watched(torch.Tensor):
        def __bool__(self) -> bool:
            reads.append(1)
            return super().__bool__()

        def item(self):
            reads.append(1)
            return super().item()

    seen = []
    latents = torch.ones(1, *SHAPE).as_subclass(Watched)
    steps = make_steps("ddim", 5, SD15.noise_schedule, generators([0]))
    denoise(
        latents, steps, tenth, lambda progress: seen.append((progress.step, len(reads)))
    )
    assert seen == [(i, 0) for i in range(1, 6)]


def test_loop_ends_where_a_report_raises() -> None:
    seen = []

    def stop(progress: Progress) -> None:
        seen.append(progress.step)
        if progress.step == 2:
            raise KeyError

    with pytest.raises(KeyError):
        denoise(
            torch.ones(1, *SHAPE),
            make_steps("ddim", 5, SD15.noise_schedule, generators([0])),
            tenth,
            stop,
        )
    assert seen == [1, 2]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_last_report_says_that_all_steps_are_done(scheduler: str) -> None:
    """PNDM takes one step more than it is asked for: the schedule knows the total."""
    reports: list[Progress] = []
    steps = make_steps(scheduler, 4, SD15.noise_schedule, generators([0]))
    denoise(torch.ones(1, *SHAPE), steps, tenth, reports.append)
    numbers = [(report.step, report.total) for report in reports]
    assert numbers == [(i + 1, steps.total) for i in range(steps.total)]
    assert steps.total == (5 if scheduler == "pndm" else 4)
    assert all(report.latents is not None for report in reports)


@pytest.mark.parametrize(
    ("num_frames", "length", "overlap"),
    [(40, 16, 4), (33, 8, 7), (16, 16, 4), (7, 4, 0)],
)
def test_repeated_noise_is_diffusers(
    num_frames: int, length: int, overlap: int
) -> None:
    from diffusers.pipelines.free_noise_utils import AnimateDiffFreeNoiseMixin

    peer: Any = AnimateDiffFreeNoiseMixin()
    peer.vae_scale_factor = 8
    peer._free_noise_context_length = length
    peer._free_noise_context_stride = length - overlap
    peer._free_noise_noise_type = "shuffle_context"
    theirs = peer._prepare_latents_free_noise(
        1, 4, num_frames, 16, 24, torch.float32, torch.device("cpu"), generators([3])[0]
    )
    sources = generators([3, 4])
    drawn = draw_latents((4, num_frames, 2, 3), sources)
    ours = repeated(drawn, Layout(num_frames, length, overlap), sources)
    assert torch.equal(ours[:1], theirs)
    assert not torch.equal(ours[1:], theirs)
