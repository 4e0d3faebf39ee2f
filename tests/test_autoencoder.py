"""Decoding: in half precision, in float32 where that overflows, without waits."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from animatediff.autoencoder import Decoder
from animatediff.errors import NonFiniteLatents
from animatediff.memory import MemoryModel, Work
from animatediff.pipeline import AnimationPipeline
from animatediff.progress import Progress
from animatediff.settings import PROJECT_ROOT
from lab.counting import memory as count_memory
from lab.counting.fake_cuda import DEVICE, LiveStorages, to_fake
from lab.counting.host_waits import HostWaits

pytestmark = pytest.mark.slow

SHAPEWORLD = PROJECT_ROOT / "models" / "shapeworld"
SMALL_VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (32, 64),
}
Decoded = list[tuple[torch.dtype, int]]
"""The dtype and the number of frames of every call of a decoder."""


def make_vae(dtype: torch.dtype) -> Any:
    pipeline = AnimationPipeline.from_pretrained(SHAPEWORLD, dtype=dtype)
    return pipeline.vae


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def exact(latents: Tensor) -> Tensor:
    return Decoder(make_vae(torch.float32)).video(latents, 1)


def watch(vae: Any, change: Callable[[Tensor], Tensor]) -> Decoded:
    """Note the calls of the decoder of ``vae``, and ``change`` what it returns."""
    calls: Decoded = []

    def note(_module: object, args: tuple[Tensor], out: Tensor) -> Tensor:
        calls.append((args[0].dtype, len(args[0])))
        return change(out)

    vae.decoder.register_forward_hook(note)
    return calls


def overflow(picture: Tensor) -> Tensor:
    """Make one value of the last frame of a call infinite, in half precision."""
    if picture.dtype == torch.float16:
        picture[-1, 0, 0, 0] = float("inf")
    return picture


def test_a_decoder_that_overflows_decodes_in_float32(
    latents: Tensor, exact: Tensor
) -> None:
    """Frame by frame, and at once for the next clip."""
    vae = make_vae(torch.float16)
    calls, decoder = watch(vae, overflow), Decoder(vae)
    assert decoder.float32_bytes == 0
    single = [(torch.float32, 1)] * 3
    assert (decoder.video(latents, 2) - exact).abs().max() < 1e-4
    assert calls == [(torch.float16, 2), (torch.float16, 1), *single]
    calls.clear()
    assert (decoder.video(latents, 2) - exact).abs().max() < 1e-4
    assert calls == single
    values = sum(map(torch.numel, vae.decoder.parameters()))
    values += sum(map(torch.numel, vae.post_quant_conv.parameters()))
    assert decoder.float32_bytes == 4 * values


def test_the_weights_stay_where_they_are(latents: Tensor) -> None:
    vae = make_vae(torch.float16)
    watch(vae, overflow)
    before = {name: tensor.data_ptr() for name, tensor in vae.state_dict().items()}
    Decoder(vae).video(latents, 2)
    after = {name: tensor.data_ptr() for name, tensor in vae.state_dict().items()}
    assert (after, vae.dtype) == (before, torch.float16)
    assert vae.encoder is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_float32_may_not_help(dtype: torch.dtype, latents: Tensor) -> None:
    vae = make_vae(dtype)
    watch(vae, lambda picture: picture * float("nan"))
    decoder = Decoder(vae)
    with pytest.raises(NonFiniteLatents, match="decoded frames"):
        decoder.frames(latents, 2)
    assert not decoder.overflows


def test_another_vae_is_tried_in_half_precision_again() -> None:
    pipeline = AnimationPipeline.from_pretrained(SHAPEWORLD, dtype=torch.float16)
    pipeline.decoder.overflows = True
    pipeline.configure_weights(None, None, [])
    assert pipeline.decoder.overflows
    pipeline.configure_weights(
        None, None, [], vae=SHAPEWORLD / "vae" / "diffusion_pytorch_model.safetensors"
    )
    assert not pipeline.decoder.overflows


def test_frames_are_reported_by_their_number(latents: Tensor) -> None:
    reports: list[tuple[int, int]] = []

    def note(progress: Progress) -> None:
        reports.append((progress.step, progress.total))

    Decoder(make_vae(torch.float32)).frames(latents, 2, note)
    assert reports == [(2, 3), (3, 3)]


@pytest.mark.usefixtures("fake_cuda")
def test_no_frame_waits_for_the_one_before_it() -> None:
    """The verdicts are read once, when all frames are decoded."""
    with torch.device("meta"):
        vae: Any = AutoencoderKL(**SMALL_VAE)
    waits: list[int] = []
    device = HostWaits()
    to_fake(vae, device.fakes, torch.float16)
    with device, suppress(DataDependentOutputException):
        latents = torch.empty(1, 4, 5, 8, 8, device=DEVICE)
        Decoder(vae).frames(
            latents, 2, lambda _progress: waits.append(len(device.waits))
        )
    assert waits == [0, 0, 0]
    assert device.waits == ["_local_scalar_dense"]


@pytest.mark.usefixtures("fake_cuda")
def test_memory_model_knows_the_copy_in_float32() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        with torch.device("meta"):
            vae: Any = AutoencoderKL(**count_memory.VAE)
        to_fake(vae, mode, torch.float16)
        decoder, live = Decoder(vae), LiveStorages()
        decoder.overflows = True
        with live, suppress(DataDependentOutputException):
            decoder.frames(torch.empty(1, 4, 2, 64, 64, device=DEVICE), 2)
    model = count_memory.memory_model(count_memory.V3)
    of_decoder = MemoryModel(
        family=model.family,
        unet_width=0,
        vae_width=128,
        value_bytes=2,
        weight_bytes=0,
        float32_decoder=decoder.float32_bytes,
    )
    needed = of_decoder.needed(Work(2, 512, 512), 2)
    print(f"counted {live.peak / 1e9:.3f} GB, modelled {needed / 1e9:.3f} GB")
    assert needed == pytest.approx(live.peak, rel=0.15)
