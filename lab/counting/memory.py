"""What a clip takes of a GPU's memory at SD 1.5's size, counted without one, beside
what ``animatediff.memory`` says.

Every operator runs on a CUDA device that computes nothing (``fake_cuda``), and the
storages alive are added up. Not seen: gaps of the allocator, work space of cuDNN and
cuBLAS, the driver's context.
"""

import argparse
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch._subclasses.fake_tensor import FakeTensorMode

from animatediff.conditioning.conditions import Conditions
from animatediff.config import (
    SPARSECTRL_RGB,
    V3,
    MotionModuleConfig,
    SparseControlNetConfig,
)
from animatediff.controls.sparsectrl import SparseControl
from animatediff.families import SD15
from animatediff.memory import CONTEXT_BYTES, MemoryModel, Work
from animatediff.models.sparse_controlnet import SparseControlNetModel
from animatediff.models.unet import UNet3DConditionModel
from animatediff.pipeline import (
    AnimationInputs,
    AnimationPipeline,
)
from animatediff.progress import Progress
from lab.counting.fake_cuda import (
    DEVICE,
    LiveStorages,
    PlainScheduler,
    register_guard,
    to_fake,
)

VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
}
TEXT_VALUES = 123_060_480
"""Of CLIP ViT-L/14's text tower, SD 1.5's."""
GB = 10**9
CARDS = (8, 12, 16, 24, 48)


class EnoughSteps(Exception):
    pass


def count_denoise(
    work: Work,
    motion: MotionModuleConfig,
    controls: Sequence[SparseControlNetConfig] = (),
    *,
    lean: bool = False,
) -> int:
    """Bytes at the peak of two steps in float16, without the weights."""
    with (
        FakeTensorMode(allow_non_fake_inputs=True) as mode,
        patch("animatediff.sampling.steps.make_scheduler", PlainScheduler),
    ):
        with torch.device("meta"):
            unet = UNet3DConditionModel(SD15.unet_config, motion)
            branches = [
                SparseControlNetModel(SD15.unet_config, control) for control in controls
            ]
        for model in (unet, *branches):
            to_fake(model, mode, torch.float16)
        vae = SimpleNamespace(
            config=SimpleNamespace(block_out_channels=VAE["block_out_channels"])
        )
        pipeline = AnimationPipeline(unet, vae, None, None)
        inputs = AnimationInputs(
            "",
            num_frames=work.num_frames,
            width=work.width,
            height=work.height,
            guidance_scale=7.5 if work.texts == 2 else 1.0,
            sequential_guidance=lean,
        )
        embeds = torch.empty(work.texts, 77, 768, device=DEVICE, dtype=torch.float16)
        live = LiveStorages()

        def stop(progress: Progress) -> None:
            if progress.step == 2:
                raise EnoughSteps

        try:
            with live:
                given = [
                    SparseControl(branch, _image(branch, work)) for branch in branches
                ]
                conditions = Conditions(embeds, given)
                pipeline.denoise(inputs, conditions, report=stop)
        except EnoughSteps:
            return live.peak
    raise AssertionError("a step is always taken")


def _image(branch: SparseControlNetModel, work: Work) -> torch.Tensor:
    factor = 8 if branch.control.takes_latents else 1
    return torch.empty(
        1,
        branch.control.conditioning_channels,
        1,
        work.height // factor,
        work.width // factor,
    )


@torch.inference_mode()
def count_decode(frames: int, width: int, height: int) -> int:
    """Bytes at the peak of the VAE's decoder in float16, ``frames`` at once, without
    the weights.
    """
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        with torch.device("meta"):
            vae: Any = AutoencoderKL(**VAE)
        to_fake(vae, mode, torch.float16)
        live = LiveStorages()
        with live:
            latents = torch.empty(
                frames, 4, height // 8, width // 8, device=DEVICE, dtype=torch.float16
            )
            picture = vae.decode(
                latents.to(memory_format=torch.channels_last)
            ).sample.to(torch.float32)
            (picture / 2 + 0.5).clamp(0, 1)
        return live.peak


def memory_model(
    motion: MotionModuleConfig, controls: Sequence[SparseControlNetConfig] = ()
) -> MemoryModel:
    """SD 1.5 with ``motion`` and ``controls``, in float16."""
    with torch.device("meta"):
        models = [UNet3DConditionModel(SD15.unet_config, motion), AutoencoderKL(**VAE)]
        models += [
            SparseControlNetModel(SD15.unet_config, control) for control in controls
        ]
    values = TEXT_VALUES + sum(
        parameter.numel() for model in models for parameter in model.parameters()
    )
    return MemoryModel(
        family=SD15,
        unet_width=SD15.unet_config.block_out_channels[0],
        vae_width=VAE["block_out_channels"][0],
        value_bytes=2,
        weight_bytes=2 * values,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=16)
    frames = parser.parse_args().frames
    register_guard()
    print(
        f"SD 1.5, motion module v3, float16, {frames} frames, guidance, decoded 4"
        f" frames at once; GB, weights included"
    )
    print(
        f"{'frames of':>12} {'SparseCtrl':>10} {'counted':>8} {'model':>8}"
        f" {'lean, counted':>14} {'model':>8}"
    )
    for side in (256, 512, 768, 1024):
        for controls in ((), (SPARSECTRL_RGB,)):
            work, model = (
                Work(frames, side, side, 2, len(controls)),
                memory_model(V3, controls),
            )
            counted = (
                max(count_denoise(work, V3, controls), count_decode(4, side, side))
                + model.weight_bytes
            )
            lean = (
                max(
                    count_denoise(work, V3, controls, lean=True),
                    count_decode(1, side, side),
                )
                + model.weight_bytes
            )
            figures = (counted, model.needed(work, 4), lean, model.needed_lean(work))
            print("{:>12} {:>10} {:8.2f} {:8.2f} {:14.2f} {:8.2f}".format(
                f"{side}x{side}", len(controls), *(figure / GB for figure in figures)
            ))  # fmt: skip
    print(
        "\nlargest square frames that are let in (of each card's memory, 0.5 GiB left"
        " to the driver)"
    )
    work, model = Work(frames, 512, 512), memory_model(V3)
    for card in CARDS:
        size = model.largest_size(work, card * GB - CONTEXT_BYTES)
        print(f"{card:>3} GB: {'none' if size is None else f'{size[0]}x{size[1]}'}")


if __name__ == "__main__":
    main()
