"""Latents become pictures on the device, without a wait and at next to no cost."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from animatediff.cli.plan import STEP_TFLOP
from animatediff.families import SD15
from animatediff.families.base import PreviewFactors
from animatediff.previews import LinearSketch, Previews
from animatediff.previews.tiny import TinySketch
from animatediff.progress import Preview, Progress
from animatediff.sampling.denoise import denoise
from animatediff.sampling.noise import generators
from animatediff.sampling.steps import make_steps
from animatediff.transfers import Arriving, FinishedWork, SideCopies
from lab.counting.fake_cuda import DEVICE, Flops, to_fake
from lab.counting.host_waits import HostWaits

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
CHANNELS = PreviewFactors(
    ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0)),
    (0.5, 0.25, 0.0),
)
MOST_SHARE = 0.01
"""Of a step's work."""


class EnoughSteps(Exception):
    """All steps ran."""


def tenth(sample: Tensor, *_: object) -> Tensor:
    return 0.1 * sample


@pytest.fixture
def device(fake_cuda: None) -> Iterator[HostWaits]:
    del fake_cuda
    with torch.no_grad(), HostWaits() as device:
        yield device


def previews(device: torch.device, every: int = 2) -> Previews:
    return Previews(LinearSketch(CHANNELS, device), SideCopies(device), every, 8, 9000)


def test_a_latent_is_a_pixel_of_its_colour() -> None:
    latents = torch.zeros(4, 2, 3, 5)
    latents[0, 1] = 0.25  # f = 1: more red
    latents[1, :, 2] = -9.0  # h = 2: no green
    latents[:, :, :, 4] = float("nan")
    shown = LinearSketch(CHANNELS, CPU)(latents.nan_to_num())
    assert (shown.shape, shown.dtype) == ((2, 3, 5, 3), torch.uint8)
    calm = 1 / latents.nan_to_num().std().clamp(min=1)
    assert shown[0, 0, 0].tolist() == [128, 64, 0]
    assert shown[1, 0, 0, 0] == round(255 * (0.5 + 0.25 * float(calm)))
    assert shown[0, 2, 0, 1] == 0


def test_noise_is_no_larger_than_a_picture() -> None:
    """Sigmas of up to 15 would show as black and white."""
    noise = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    sketch = LinearSketch(CHANNELS, CPU)
    loud, plain = sketch(15 * noise).float(), sketch(noise).float()
    assert (loud - plain).abs().max() <= 2


def test_every_nth_step_has_a_preview() -> None:
    steps = make_steps("ddim", 7, SD15.noise_schedule, generators([0]))
    shown: dict[int, Preview | None] = {}

    def note(progress: Progress) -> None:
        shown[progress.step] = progress.preview

    denoise(torch.randn(2, 4, 3, 8, 8), steps, tenth, note, previews(CPU, 3))
    assert [step for step, preview in shown.items() if preview] == [3, 6]
    preview = shown[3]
    assert preview is not None
    assert preview.frames.shape == (3, 8, 8, 3)
    assert (preview.fps, preview.max_bytes) == (8, 9000)


def test_a_preview_shows_what_the_step_foresees() -> None:
    """A predictor that knows the clip shows it from the first step on."""
    picture = torch.zeros(1, 4, 3, 8, 8)
    picture[:, 0] = 0.5
    steps = make_steps("ddim", 4, SD15.noise_schedule, generators([0]))

    def knowing(sample: Tensor, step: int, _frames: object) -> Tensor:
        share = steps.scheduler.alphas_cumprod[steps.timesteps[step]]
        return (sample - share**0.5 * picture) / (1 - share) ** 0.5

    shown: list[Tensor] = []

    def note(progress: Progress) -> None:
        assert progress.preview is not None
        shown.append(progress.preview.frames)

    denoise(torch.randn(1, 4, 3, 8, 8), steps, knowing, note, previews(CPU, 1))
    expected = LinearSketch(CHANNELS, CPU)(picture[0]).float()
    assert len(shown) == 4
    assert all((frames - expected).abs().max() <= 1 for frames in shown)


def test_previews_change_no_latent() -> None:
    start = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def run(shown: Previews | None) -> Tensor:
        steps = make_steps("euler_a", 5, SD15.noise_schedule, generators([3]))
        return denoise(start, steps, tenth, previews=shown)

    assert torch.equal(run(previews(CPU, 1)), run(None))


def test_no_step_waits_for_the_device(device: HostWaits) -> None:
    steps = make_steps("ddim", 6, SD15.noise_schedule, generators([0]))
    shown: list[int] = []

    def note(progress: Progress) -> None:
        if progress.preview is not None:
            assert progress.preview.frames.device == CPU
            shown.append(progress.step)
        if progress.step == steps.total:
            raise EnoughSteps  # the verdict on NaN is no number here

    latents = torch.empty(1, 4, 3, 8, 8, device=DEVICE)
    with pytest.raises(EnoughSteps):
        denoise(latents, steps, tenth, note, previews(DEVICE))
    assert shown == [2, 4, 6]
    assert device.waits == []


def test_a_sketch_that_waits_is_seen(device: HostWaits) -> None:
    sketch = LinearSketch(CHANNELS, DEVICE)
    sketch(torch.empty(4, 3, 8, 8, device=DEVICE)).cpu()
    assert device.waits == ["_to_copy"]


class Event:
    """Stands for ``torch.Event``: notes when it is waited for."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self.notes = name, notes

    def record(self) -> None:
        self.notes.append(f"record {self.name}")

    def synchronize(self) -> None:
        self.notes.append(f"wait {self.name}")


def test_a_copy_is_looked_at_a_step_later(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []

    def step_event(_device: torch.device, **_options: Any) -> Event:
        return Event("step", notes)

    monkeypatch.setattr(torch, "Event", step_event)
    work = FinishedWork(
        torch.device("cuda"), lambda progress: notes.append(f"report {progress.step}")
    )
    copied: Any = Event("copy", notes)
    tensor = torch.zeros(1)
    work.launched(Progress("denoise", 1, 2), Arriving(tensor, tensor, copied))
    notes.append("launch 2")
    work.launched(Progress("denoise", 2, 2))
    assert notes == [
        "record step",
        "launch 2",
        "record step",
        "wait step",
        "wait copy",
        "report 1",
    ]


def flops(sketch: Any) -> float:
    """TFLOP of a preview of 16 frames of 512x512."""
    with Flops() as counted:
        sketch(torch.empty(4, 16, 64, 64, device=DEVICE))
    return counted.total / 1e12


@pytest.fixture
def fakes(fake_cuda: None) -> Iterator[FakeTensorMode]:
    del fake_cuda
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


def test_a_preview_costs_next_to_nothing(fakes: FakeTensorMode) -> None:
    del fakes
    share = flops(LinearSketch(CHANNELS, DEVICE)) / STEP_TFLOP
    assert 0 < share < 1e-6


def test_a_tiny_autoencoder_costs_less_than_a_hundredth_of_a_step(
    fakes: FakeTensorMode,
) -> None:
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    with torch.device("meta"):
        model = AutoencoderTiny()
    to_fake(model, fakes, torch.float16)
    share = flops(TinySketch(model, 1.0)) / STEP_TFLOP
    assert 0.001 < share < MOST_SHARE
