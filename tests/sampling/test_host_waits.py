"""The host never waits for the device in a step, with diffusers' real schedulers."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException

from animatediff.catalog import SCHEDULERS
from animatediff.errors import NonFiniteLatents
from animatediff.families import SD15
from animatediff.progress import Progress
from animatediff.sampling.denoise import denoise
from animatediff.sampling.noise import generators
from animatediff.sampling.schedulers import draws_noise, make_scheduler
from animatediff.sampling.steps import Steps, make_steps
from animatediff.transfers import FinishedWork, send
from lab.counting.fake_cuda import DEVICE
from lab.counting.host_waits import HostWaits

SHAPE = (2, 4, 3, 8, 8)
SEEDS = (0, 1)


class EnoughSteps(Exception):
    """All steps ran."""


def tenth(sample: Tensor, *_: object) -> Tensor:
    return 0.1 * sample


@pytest.fixture
def device(fake_cuda: None) -> Iterator[HostWaits]:
    del fake_cuda
    with torch.no_grad(), HostWaits() as device:
        yield device


def run(steps: Steps) -> list[int]:
    """Run all steps on the device; return the steps that were reported."""
    reported: list[int] = []

    def note(progress: Progress) -> None:
        reported.append(progress.step)
        if progress.step == steps.total:
            raise EnoughSteps  # the verdict on NaN is no number here

    with pytest.raises(EnoughSteps):
        denoise(torch.empty(SHAPE, device=DEVICE), steps, tenth, note)
    return reported


@pytest.mark.parametrize("name", SCHEDULERS)
def test_no_step_waits_for_the_device(name: str, device: HostWaits) -> None:
    steps = make_steps(name, 6, SD15.noise_schedule, generators(SEEDS))
    assert run(steps) == list(range(1, steps.total + 1))
    assert device.waits == []


def diffusers_unipc() -> Any:
    scheduler = UniPCMultistepScheduler(
        **SD15.noise_schedule, timestep_spacing="linspace"
    )
    scheduler.set_timesteps(6)
    return scheduler


def test_a_scheduler_that_waits_is_seen(device: HostWaits) -> None:
    run(Steps(diffusers_unipc(), generators(SEEDS)))
    assert "_to_copy" in device.waits
    assert "_linalg_check_errors" in device.waits


def test_every_kind_of_wait_is_seen(device: HostWaits) -> None:
    there, ordinary = torch.empty(3, device=DEVICE), torch.zeros(3)
    calls = (
        lambda: there.cpu(),
        lambda: ordinary.to(there.device),
        lambda: ordinary.to(there.device, non_blocking=True),
        lambda: there.copy_(ordinary),
        lambda: there + ordinary.to(there.device),
        lambda: bool(there.sum() > 0),
    )
    for i, call in enumerate(calls):
        with suppress(DataDependentOutputException):  # a fake has no numbers
            call()
        assert len(device.waits) == i + 1
    send(ordinary, there.device)
    there.to("cpu", non_blocking=True)
    there.to(torch.float16)
    assert len(device.waits) == len(calls)


@pytest.mark.parametrize("steps", [1, 2, 3, 12])
def test_unipc_is_diffusers_unipc(steps: int) -> None:
    expected: Tensor = torch.randn(SHAPE, generator=generators([0])[0])
    got = expected.clone()
    theirs, ours = diffusers_unipc(), make_scheduler("unipc", 6, SD15.noise_schedule)
    for each in (theirs, ours):
        each.set_timesteps(steps)
    for timestep in theirs.timesteps:
        noise = expected.sin()
        expected = theirs.step(noise, timestep, expected).prev_sample
        got = ours.step(noise, timestep, got).prev_sample
        assert torch.equal(got, expected)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_noise_is_that_of_the_scheduler_alone(name: str) -> None:
    """Each generator is asked for the same numbers in the same order."""
    sources, others = generators(SEEDS), generators(SEEDS)
    start = torch.ones(SHAPE)
    got = denoise(start, make_steps(name, 5, SD15.noise_schedule, sources), tenth)
    scheduler, expected = make_scheduler(name, 5, SD15.noise_schedule), start
    extra = {"generator": others} if draws_noise(scheduler) else {}
    for timestep in scheduler.timesteps:
        noise = tenth(scheduler.scale_model_input(expected, timestep))
        expected = scheduler.step(noise, timestep, expected, **extra).prev_sample
    assert torch.equal(got, expected)


class Events:
    """Stands for ``torch.Event``: notes what is recorded and waited for."""

    notes: list[str]

    def __init__(self, _device: torch.device, *, blocking: bool) -> None:
        assert blocking  # or the wait would keep a core busy
        self.number = sum(note.startswith("record") for note in self.notes) + 1

    def record(self) -> None:
        self.notes.append(f"record {self.number}")

    def synchronize(self) -> None:
        self.notes.append(f"wait {self.number}")


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    notes: list[str] = []
    monkeypatch.setattr(Events, "notes", notes, raising=False)
    monkeypatch.setattr(torch, "Event", Events)
    return notes


def test_a_step_is_reported_when_the_device_has_finished_it(
    notes: list[str],
) -> None:
    work = FinishedWork(
        torch.device("cuda"), lambda progress: notes.append(f"report {progress.step}")
    )
    for step in (1, 2, 3):
        notes.append(f"launch {step}")
        work.launched(Progress("denoise", step, 3))
    work.wait()
    work.wait()
    order = "launch 1, record 1, launch 2, record 2, wait 1, report 1, launch 3,"
    order += " record 3, wait 2, report 2, wait 3, report 3"
    assert notes == order.split(", ")


def test_a_report_that_raises_ends_the_work(notes: list[str]) -> None:
    """After a cancel, no step is launched but the one that was already."""

    def cancel(_progress: Progress) -> None:
        raise NonFiniteLatents(None, "a test")

    work = FinishedWork(torch.device("cuda"), cancel)
    work.launched(Progress("denoise", 1, 3))
    with pytest.raises(NonFiniteLatents):
        work.launched(Progress("denoise", 2, 3))
    assert notes == ["record 1", "record 2", "wait 1"]


def test_a_cpu_is_done_at_once(notes: list[str]) -> None:
    reported: list[int] = []
    work = FinishedWork(
        torch.device("cpu"), lambda progress: reported.append(progress.step)
    )
    work.launched(Progress("denoise", 1, 2))
    assert (reported, notes) == ([1], [])
