import pytest
import torch

from animatediff.errors import NonFiniteLatents
from animatediff.sampling.denoise import denoise
from animatediff.sampling.guidance import guide, needs_unconditional
from animatediff.sampling.noise import draw_latents, generators
from animatediff.sampling.schedulers import make_scheduler

SHAPE = (4, 3, 2, 2)


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


@pytest.mark.parametrize("bad_step", [0, 2, 4])
def test_step_of_the_first_nan_is_named(bad_step: int) -> None:
    def predict(x: torch.Tensor, i: int) -> torch.Tensor:
        return x * (float("nan") if i == bad_step else 0.1)

    scheduler = make_scheduler("ddim", 5)
    with pytest.raises(NonFiniteLatents) as caught:
        denoise(torch.ones(1, *SHAPE), scheduler, predict, generators([0]))
    assert caught.value.details == {"step": bad_step, "where": "latents"}


def test_no_step_waits_for_the_device() -> None:
    """A tensor is turned into a Python number only after the last step."""
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
    denoise(
        latents,
        make_scheduler("ddim", 5),
        lambda x, _i: 0.1 * x,
        generators([0]),
        lambda i, _x: seen.append((i, len(reads))),
    )
    assert seen == [(i, 0) for i in range(5)]


def test_loop_ends_where_on_step_raises() -> None:
    seen = []

    def stop(i: int, _latents: torch.Tensor) -> None:
        seen.append(i)
        if i == 1:
            raise KeyError

    with pytest.raises(KeyError):
        denoise(
            torch.ones(1, *SHAPE),
            make_scheduler("ddim", 5),
            lambda x, _i: 0.1 * x,
            generators([0]),
            stop,
        )
    assert seen == [0, 1]
