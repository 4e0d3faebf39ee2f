"""Count one guided UNet step and one decode at SD 1.5's size, ours and diffusers'.

Everything runs in float16 on a CUDA device that computes nothing. Not seen: kernels
that a library starts inside one operator, for example where cuDNN changes the layout of
NCHW images for a fast convolution.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_motion_model import UNetMotionModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from animatediff.config import V3, UNet3DConfig
from animatediff.families import SD15
from animatediff.kernels.choice import forced_kernels
from animatediff.models.attention import pack_projections
from animatediff.models.unet import UNet3DConditionModel
from animatediff.models.vae import use_own_layers
from lab.counting.fake_cuda import (
    DEVICE,
    CudnnLayouts,
    LiveStorages,
    register_guard,
    to_fake,
)
from lab.counting.kernels import Kernels, Tally, one_kernel_attention
from lab.counting.memory import VAE

TEXTS = 2
"""With guidance."""
DECODED = 4
"""Frames that are decoded at once."""
PARTS = {
    "ResnetBlock": "resnets",
    "SpatialTransformer": "spatial transformers",
    "VanillaTemporalModule": "motion modules",
    "ResnetBlock2D": "resnets",
    "VaeResnet": "resnets",
    "Transformer2DModel": "spatial transformers",
    "AnimateDiffTransformer3D": "motion modules",
}
Step = Callable[[], object]


Model = tuple[nn.Module, Step]
Build = Callable[[FakeTensorMode, int, int], Model]


def _to_device(model: nn.Module, mode: FakeTensorMode, *, nhwc: bool = True) -> None:
    """Move a model from the meta device; images' weights are channels_last, or not."""
    to_fake(model, mode, torch.float16)
    for parameter in model.parameters() if nhwc else ():
        if parameter.ndim == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
    pack_projections(model)


def _text(width: int) -> Tensor:
    return torch.empty(TEXTS, 77, width, device=DEVICE, dtype=torch.float16)


def our_unet(
    mode: FakeTensorMode,
    frames: int,
    side: int,
    *,
    config: UNet3DConfig = SD15.unet_config,
) -> Model:
    """Return our UNet and a step on one clip's latents."""
    with torch.device("meta"):
        unet = UNet3DConditionModel(config, V3)
    _to_device(unet, mode)
    row = unet.schedule(torch.arange(1000, 0, -40)).row(1)
    text = unet.encode_text(_text(config.cross_attention_dim))
    latents = torch.empty(1, 4, frames, side // 8, side // 8, device=DEVICE)
    return unet, lambda: unet.predict(latents.half(), row, text)


def their_unet(
    mode: FakeTensorMode, frames: int, side: int, *, nhwc: bool = False
) -> Model:
    """Return diffusers' UNet and a step on one clip's latents."""
    with torch.device("meta"):
        unet: Any = UNetMotionModel(
            block_out_channels=SD15.unet_config.block_out_channels,
            cross_attention_dim=768,
            num_attention_heads=8,
            motion_num_attention_heads=8,
            use_motion_mid_block=False,
        )
    _to_device(unet, mode, nhwc=nhwc)
    text = _text(768).repeat_interleave(frames, dim=0)
    timestep = torch.empty((), device=DEVICE, dtype=torch.int64)
    latents = torch.empty(1, 4, frames, side // 8, side // 8, device=DEVICE)

    def step() -> object:
        both = torch.cat([latents.half()] * TEXTS)
        return unet(both, timestep, encoder_hidden_states=text).sample

    return unet, step


def decoder(
    mode: FakeTensorMode,
    _frames: int,
    side: int,
    *,
    our_norms: bool,
    config: dict[str, Any] = VAE,
) -> Model:
    """Return the VAE, with its norms or ours, and the decoding of some frames."""
    with torch.device("meta"):
        vae: Any = AutoencoderKL.from_config(config)
    if our_norms:
        use_own_layers(vae)
    _to_device(vae, mode)
    shape = (DECODED, 4, side // 8, side // 8)
    latents = torch.empty(shape, device=DEVICE, dtype=torch.float16)
    latents = latents.to(memory_format=torch.channels_last)
    return vae, lambda: vae.decode(latents).sample


CASES: Mapping[str, tuple[Build, Callable[[], AbstractContextManager[None]]]] = {
    "step, ours": (our_unet, forced_kernels),
    "step, ours without kernels": (our_unet, nullcontext),
    "step, diffusers": (their_unet, nullcontext),
    "step, diffusers in NHWC": (partial(their_unet, nhwc=True), nullcontext),
    "decode, ours": (partial(decoder, our_norms=True), forced_kernels),
    "decode, ours without kernels": (
        partial(decoder, our_norms=True),
        nullcontext,
    ),
    "decode, diffusers": (partial(decoder, our_norms=False), nullcontext),
}


def count(case: str, frames: int, side: int) -> Kernels:
    """Count a row of ``CASES``, for frames of ``side`` x ``side`` pixels."""
    build, choice = CASES[case]
    device = FakeTensorMode(allow_non_fake_inputs=True)
    with torch.no_grad(), choice(), one_kernel_attention(), device, CudnnLayouts():
        model, run = build(device, frames, side)
        live = LiveStorages()
        kernels = Kernels(live)
        kernels.watch(model, PARTS)
        with live, kernels:
            run()
    return kernels


def _figures(tally: Tally) -> dict[str, float]:
    return {
        "kernels": tally.kernels,
        "glue kernels": tally.glue_kernels,
        "TFLOP": round(tally.flops / 1e12, 2),
        "glue GB": round(tally.glue_bytes / 1e9, 1),
        "operand GB": round(tally.operand_bytes / 1e9, 1),
        "layout GB": round(tally.layout_bytes / 1e9, 1),
        "peak GB": round(tally.peak / 1e9, 2),
    }


def rows(frames: int, side: int) -> Iterator[tuple[str, str, dict[str, float]]]:
    """Yield case, part ("" for the whole) and figures."""
    for case in CASES:
        kernels = count(case, frames, side)
        yield case, "", _figures(kernels.total)
        for part, tally in kernels.parts.items():
            yield case, part, _figures(tally)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--side", type=int, default=512, help="pixels, square frames")
    parser.add_argument("--json", action="store_true", help="one object a line")
    arguments = parser.parse_args()
    register_guard()
    if not arguments.json:
        print(
            f"SD 1.5, motion module v3, float16: a guided step of {arguments.frames}"
            f" frames of {arguments.side}x{arguments.side}; decoding of {DECODED}."
            f" Counted; peaks are without weights"
        )
        print(f"{'':<30}" + "".join(f"{name:>13}" for name in _figures(Tally())))
    for case, part, figures in rows(arguments.frames, arguments.side):
        if arguments.json:
            print(json.dumps({"case": case, "part": part, **figures}))
        else:
            name = f"  {part}" if part else case
            print(f"{name:<30}" + "".join(f"{value:>13}" for value in figures.values()))
