"""What a step launches, moves and holds at SD 1.5's size, counted on a CUDA device that
computes nothing.
"""

import json
import sys
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from animatediff.kernels.choice import forced_kernels
from lab.counting import step
from lab.counting.fake_cuda import DEVICE, CudnnLayouts, LiveStorages
from lab.counting.host_waits import HostWaits
from lab.counting.kernels import Kernels, Tally, one_kernel_attention

LATENT_BYTES = 4 * 16 * 64 * 64 * 2
"""Of a clip, float16. They come in the order of videos, and leave NHWC."""
TOKEN_BYTES = 4 * 64 * 64 * 512 * 2
"""Of four frames at the decoder's attention, float16; diffusers copies them once."""

pytestmark = pytest.mark.usefixtures("fake_cuda")


@pytest.fixture
def kernels() -> Iterator[Kernels]:
    live = LiveStorages()
    modes = (FakeTensorMode(allow_non_fake_inputs=True), CudnnLayouts(), live)
    with torch.no_grad(), one_kernel_attention(), modes[0], modes[1], modes[2]:
        yield Kernels(live)


@pytest.mark.slow
def test_a_step_stays_within_its_bounds() -> None:
    """1,000 kernels and 62 GB of glue are the goal; these bounds are the state."""
    ours = step.count("step, ours", 16, 512).total
    assert ours.kernels <= 820
    assert ours.glue_bytes <= 56.6e9
    assert ours.operand_bytes <= 61.8e9
    assert ours.flops <= 34.6e12
    assert ours.layout_bytes <= 2 * LATENT_BYTES
    theirs = step.count("step, diffusers", 16, 512).total
    assert ours.kernels < 0.55 * theirs.kernels
    assert ours.glue_bytes < 0.55 * theirs.glue_bytes
    assert ours.peak < 0.7 * theirs.peak


@pytest.mark.slow
def test_a_decode_stays_within_its_bounds() -> None:
    ours = step.count("decode, ours", 16, 512).total
    assert ours.kernels <= 162
    assert ours.glue_bytes <= 19.5e9
    assert ours.layout_bytes <= 2 * TOKEN_BYTES
    theirs = step.count("decode, diffusers", 16, 512).total
    assert ours.glue_bytes < 0.4 * theirs.glue_bytes
    assert ours.peak <= theirs.peak


@pytest.mark.slow
def test_the_unet_never_makes_the_host_wait() -> None:
    """The loop around it does not either, see tests/sampling/test_host_waits.py."""
    device = HostWaits()
    with torch.no_grad(), forced_kernels(), one_kernel_attention(), device:
        _, run = step.our_unet(device.fakes, 2, 64)
        device.waits.clear()  # the tables of a job are made before its first step
        run()
    assert device.waits == []


def image(*shape: int) -> Tensor:
    tensor = torch.empty(shape, device=DEVICE, dtype=torch.float16)
    return tensor.to(memory_format=torch.channels_last)


def weight(*shape: int) -> Tensor:
    return torch.empty(shape, device=DEVICE, dtype=torch.float16)


def test_a_convolution_keeps_nhwc_and_has_a_kernel_for_its_bias(
    kernels: Kernels,
) -> None:
    x, filters, bias = image(2, 8, 4, 4), weight(16, 8, 3, 3), weight(16)
    with kernels:
        result = F.conv2d(x, filters, bias, padding=1)
    assert result.is_contiguous(memory_format=torch.channels_last)
    alive = x.nbytes + filters.nbytes + bias.nbytes + result.nbytes
    assert kernels.total == Tally(
        kernels=2,
        glue_kernels=1,
        flops=2 * 2 * 16 * 16 * 8 * 9,
        glue_bytes=2 * result.nbytes,
        operand_bytes=alive,
        peak=alive,
    )


def test_a_convolution_copies_an_image_of_another_layout(kernels: Kernels) -> None:
    x = weight(2, 8, 4, 4)
    filters = weight(16, 8, 3, 3).to(memory_format=torch.channels_last)
    with kernels:
        F.conv2d(x, filters, padding=1)
    assert kernels.total.kernels == 2
    assert kernels.total.layout_bytes == 2 * x.nbytes


def test_copies_are_seen_and_views_are_not(kernels: Kernels) -> None:
    x = image(2, 8, 4, 4)
    with kernels:
        tokens = x.permute(0, 2, 3, 1).flatten(1, 2)
        tokens.unflatten(-1, (2, 4)).transpose(1, 2)
        tokens.chunk(2, dim=-1)
        torch.empty_like(x)
    assert kernels.total.kernels == 0
    with kernels:
        x.clone()
    assert kernels.total.layout_bytes == 0
    with kernels:
        x.contiguous()
    assert kernels.total.layout_bytes == 2 * x.nbytes
    assert kernels.total.kernels == 2


def test_attention_is_one_kernel_and_an_expanded_axis_is_read_once(
    kernels: Kernels,
) -> None:
    q = weight(1, 2, 6, 8)
    with kernels:
        F.scaled_dot_product_attention(q, q.expand(3, 2, 6, 8)[:1], q)
        torch.add(weight(1, 8).expand(6, 8), weight(6, 8))
    total = kernels.total
    assert total.kernels == 2
    assert total.flops == 4 * 2 * 6 * 6 * 8
    assert total.operand_bytes == 4 * q.nbytes
    assert total.glue_bytes == (8 + 48 + 48) * 2


@pytest.mark.slow
def test_the_command_prints_parts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = "step, ours"
    monkeypatch.setattr(step, "CASES", {case: step.CASES[case]})
    arguments = ["count_step", "--frames", "1", "--side", "64"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--json"])
    step.main()
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["part"] for row in rows] == [
        "",
        "rest",
        "resnets",
        "spatial transformers",
        "motion modules",
    ]
    whole, *parts = rows
    assert whole["kernels"] == sum(part["kernels"] for part in parts)
    assert whole["peak GB"] == max(part["peak GB"] for part in parts)
    monkeypatch.setattr(sys, "argv", arguments)
    step.main()
    header, names, row, *_ = capsys.readouterr().out.splitlines()
    assert "1 frames of 64x64" in header
    assert names.split()[0] == "kernels"
    assert row.split()[2] == str(whole["kernels"])
