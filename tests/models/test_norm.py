"""GroupNorm against its formula in float64, where torch's CPU kernel loses digits."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from animatediff.models.norm import GroupNorm, group_norm
from animatediff.pipeline import AnimationPipeline

EPS = 1e-6
LAYOUTS = {"last": torch.channels_last, "first": torch.contiguous_format}


def formula(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, across_frames: int
) -> Tensor:
    """Apply arXiv 1803.08494, equations 1 to 3 and 6, to (b f, c, h, w), in float64."""
    grouped = x.double().unflatten(0, (-1, across_frames)).unflatten(2, (groups, -1))
    dims = (1, 3, 4, 5)  # of (b, f, groups, c / groups, h, w)
    centred = grouped - grouped.mean(dims, keepdim=True)
    variance = centred.square().mean(dims, keepdim=True)
    normed = (centred / (variance + EPS).sqrt()).flatten(2, 3).flatten(0, 1)
    return normed * weight.double()[:, None, None] + bias.double()[:, None, None]


def drawn(
    channels: int, dtype: torch.dtype, *, mean: float = 0.0, deviation: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw six frames of 11 x 10, weight and bias."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(6, channels, 11, 10, generator=draw) * deviation + mean
    weight = torch.rand(channels, generator=draw) + 0.5
    bias = torch.randn(channels, generator=draw)
    return x.to(dtype), weight.to(dtype), bias.to(dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("across_frames", [1, 3])
@pytest.mark.parametrize(
    ("groups", "channels"), [(1, 7), (3, 9), (7, 7), (5, 35), (32, 96)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("mean", "deviation"), [(0.0, 1.0), (1.0, 0.01), (300.0, 3.0), (-1000.0, 10.0)]
)
def test_a_mean_of_a_hundred_deviations_costs_no_digits(
    mean: float,
    deviation: float,
    dtype: torch.dtype,
    groups: int,
    channels: int,
    across_frames: int,
    grad: bool,
    layout: str,
) -> None:
    x, weight, bias = drawn(channels, dtype, mean=mean, deviation=deviation)
    exact = formula(x, groups, weight, bias, across_frames)
    x = x.contiguous(memory_format=LAYOUTS[layout])
    with torch.set_grad_enabled(grad):
        normed = group_norm(x, groups, weight, bias, EPS, across_frames=across_frames)
    assert normed.dtype == dtype
    assert normed.is_contiguous(memory_format=torch.channels_last)
    # The float32 kernels subtract a rounded mean: 100 deviations / 2^24, twice.
    noise = 2 * 100 * 2**-24 if mean else 0.0
    limit = exact.abs().max() * (torch.finfo(dtype).eps + 2e-6) + 2 * noise
    assert (normed.double() - exact).abs().max() < limit


@pytest.mark.parametrize("across_frames", [1, 2])
def test_float64_is_exact(across_frames: int) -> None:
    x, weight, bias = drawn(12, torch.float64, mean=10, deviation=0.01)
    exact = formula(x, 4, weight, bias, across_frames)
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        normed = group_norm(x, 4, weight, bias, EPS, across_frames=across_frames)
    assert (normed - exact).abs().max() < 1e-11


@torch.inference_mode()
def test_sums_over_large_images_keep_their_digits() -> None:
    x = torch.randn(1, 8, 512, 512, generator=torch.Generator().manual_seed(0))
    x = (x.abs() + 1).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.ones(8), torch.zeros(8)
    error = group_norm(x, 4, weight, bias, EPS) - formula(x, 4, weight, bias, 1)
    assert error.abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_silu_is_fused(grad: bool, dtype: torch.dtype) -> None:
    x, weight, bias = drawn(8, dtype)
    before = x.clone()
    with torch.set_grad_enabled(grad):
        fused = group_norm(x, 2, weight, bias, EPS, silu=True)
        plain = group_norm(x, 2, weight, bias, EPS)
    assert torch.equal(fused, nn.functional.silu(plain))
    assert torch.equal(x, before)


@torch.inference_mode()
def test_a_group_of_one_value_is_the_bias() -> None:
    x = torch.full((2, 4, 1, 1), 1000.0)
    weight, bias = torch.ones(4), torch.arange(4.0)
    assert torch.equal(group_norm(x, 4, weight, bias, EPS)[1, :, 0, 0], bias)


@torch.inference_mode()
def test_not_a_number_stays_visible_in_its_own_group() -> None:
    x, weight, bias = drawn(8, torch.float32)
    x[1, 0, 0, 0] = torch.inf
    lost = group_norm(x, 2, weight, bias, EPS).isnan()
    assert lost[1, :4].all()
    assert lost.sum() == lost[1, :4].numel()


@pytest.mark.parametrize("input_grad", [False, True])
@pytest.mark.parametrize("across_frames", [1, 3])
def test_gradients(across_frames: int, input_grad: bool) -> None:
    def gradients(exact: bool, x: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
        x = x.clone(memory_format=torch.channels_last).requires_grad_(input_grad)
        weight, bias = (tensor.clone().requires_grad_() for tensor in (weight, bias))
        if exact:
            y = nn.functional.silu(formula(x, 3, weight, bias, across_frames))
        else:
            y = group_norm(x, 3, weight, bias, EPS, True, across_frames=across_frames)
        y.pow(3).sum().backward()
        gradients = [tensor.grad for tensor in (x, weight, bias)]
        return [gradient for gradient in gradients if gradient is not None]

    inputs = drawn(9, torch.float64, mean=10, deviation=0.1)
    ours, expected = gradients(False, *inputs), gradients(True, *inputs)
    assert len(ours) == len(expected) == 2 + input_grad
    for gradient, exact in zip(ours, expected, strict=True):
        torch.testing.assert_close(gradient, exact, rtol=1e-9, atol=1e-9)


class Operators(TorchDispatchMode):
    """Keeps the names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.__name__.split(".")[0])
        return func(*args, **kwargs or {})


def test_other_devices_run_their_kernel_alone() -> None:
    with torch.device("meta"):
        x, weight = torch.empty(2, 8, 4, 4), torch.empty(8)
    with torch.no_grad(), Operators() as operators:
        group_norm(x, 2, weight, weight, EPS, silu=True)
    assert operators.names == ["native_group_norm", "clone", "silu_"]


def test_every_model_of_a_pipeline_computes_with_it(
    shapeworld: AnimationPipeline,
) -> None:
    for model in (shapeworld.unet, shapeworld.vae):
        norms = [m for m in model.modules() if isinstance(m, nn.GroupNorm)]
        assert len(norms) > 10
        assert all(isinstance(norm, GroupNorm) for norm in norms)
