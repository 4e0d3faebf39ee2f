"""Count the GPU memory of a clip at SD 1.5's size, without a GPU.

Every operator runs on a CUDA device that computes nothing (``fake_cuda``), and the
storages alive are added up. The figures are printed next to those of
``animatediff.memory``. Not seen: gaps of the allocator, work space of cuDNN and cuBLAS,
the driver's context.
"""

import argparse
from collections.abc import Iterator, Sequence
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
from animatediff.job.clip import ContextWindows
from animatediff.memory import MemoryModel, Work
from animatediff.models.image_model import ImageModel
from animatediff.models.sparse_controlnet import SparseControlNetModel
from animatediff.models.unet import UNet3DConditionModel
from animatediff.models.vae import use_own_layers
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
"""Numbers in CLIP ViT-L/14's text tower, SD 1.5's."""
GB = 10**9
CONTEXT_BYTES = 2**29
"""Memory of a card that the driver's context and the libraries take. An assumption: no
GPU was measured.
"""
CARDS = (8, 12, 16, 24, 48)
"""Sizes of graphics cards, in GB."""
SIDES = (256, 512, 768, 1024)

Controls = Sequence[SparseControlNetConfig]


class EnoughSteps(Exception):
    """Denoising took as many steps as are counted."""


def count_denoise(
    work: Work,
    motion: MotionModuleConfig,
    controls: Controls = (),
    *,
    lean: bool = False,
) -> int:
    """Return the bytes at the peak of two steps in float16, without the weights.

    ``lean``: guidance runs its passes one after the other.
    """
    with (
        FakeTensorMode(allow_non_fake_inputs=True) as mode,
        patch("animatediff.sampling.steps.make_scheduler", PlainScheduler),
    ):
        unet, branches = _unet_and_branches(motion, controls)
        for model in (unet, *branches):
            to_fake(model, mode, torch.float16)
        pipeline = AnimationPipeline(ImageModel(unet, _vae_config()))
        inputs = _inputs(work, lean)
        embeds = torch.empty(work.texts, 77, 768, device=DEVICE, dtype=torch.float16)
        live = LiveStorages()
        try:
            with live:
                sparse = [SparseControl(each, _image(each, work)) for each in branches]
                conditions = Conditions(embeds, sparse)
                pipeline.denoise(inputs, conditions, report=_stop_after_two)
        except EnoughSteps:
            return live.peak
    raise AssertionError("a step is always taken")


def _unet_and_branches(
    motion: MotionModuleConfig, controls: Controls
) -> tuple[UNet3DConditionModel, list[SparseControlNetModel]]:
    """Return the models on the meta device."""
    config = SD15.unet_config
    with torch.device("meta"):
        unet = UNet3DConditionModel(config, motion)
        return unet, [SparseControlNetModel(config, control) for control in controls]


def _vae_config() -> Any:
    """Return as much of a VAE as the pipeline reads before it decodes."""
    config = SimpleNamespace(block_out_channels=VAE["block_out_channels"])
    return SimpleNamespace(config=config)


def _inputs(work: Work, lean: bool) -> AnimationInputs:
    return AnimationInputs(
        "",
        num_frames=work.num_frames,
        width=work.width,
        height=work.height,
        guidance_scale=7.5 if work.texts == 2 else 1.0,
        sequential_guidance=lean,
        context=ContextWindows(length=work.window) if work.window else None,
    )


def _stop_after_two(progress: Progress) -> None:
    if progress.step == 2:
        raise EnoughSteps


def _image(branch: SparseControlNetModel, work: Work) -> torch.Tensor:
    """Return a picture for ``branch``: (1, c, 1, h, w), in pixels or latents."""
    factor = 8 if branch.control.takes_latents else 1
    channels = branch.control.conditioning_channels
    return torch.empty(1, channels, 1, work.height // factor, work.width // factor)


@torch.inference_mode()
def count_decode(frames: int, width: int, height: int) -> int:
    """Return the bytes at the peak of the VAE's decoder in float16, without weights.

    It decodes ``frames`` of ``width`` x ``height`` pixels at once.
    """
    shape = (frames, 4, height // 8, width // 8)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        with torch.device("meta"):
            vae: Any = AutoencoderKL(**VAE)
        use_own_layers(vae)
        to_fake(vae, mode, torch.float16)
        live = LiveStorages()
        with live:
            latents = torch.empty(shape, device=DEVICE, dtype=torch.float16)
            latents = latents.to(memory_format=torch.channels_last)
            picture = vae.decode(latents).sample.to(torch.float32)
            (picture / 2 + 0.5).clamp(0, 1)
        return live.peak


def memory_model(motion: MotionModuleConfig, controls: Controls = ()) -> MemoryModel:
    """Return the model of SD 1.5 with ``motion`` and ``controls``, in float16."""
    unet, branches = _unet_and_branches(motion, controls)
    with torch.device("meta"):
        vae: Any = AutoencoderKL(**VAE)
    values = TEXT_VALUES
    for model in (unet, vae, *branches):
        values += sum(parameter.numel() for parameter in model.parameters())
    return MemoryModel(
        family=SD15,
        unet_width=SD15.unet_config.block_out_channels[0],
        vae_width=VAE["block_out_channels"][0],
        value_bytes=2,
        weight_bytes=2 * values,
    )


def _figures(
    work: Work, model: MemoryModel, controls: Controls
) -> tuple[float, float, float, float]:
    """Return GB: counted and modelled, then the same with the least memory."""
    side = work.width
    usual = max(count_denoise(work, V3, controls), count_decode(4, side, side))
    denoise = count_denoise(work, V3, controls, lean=True)
    least = max(denoise, count_decode(1, side, side))
    return (
        (usual + model.weight_bytes) / GB,
        model.needed(work, 4) / GB,
        (least + model.weight_bytes) / GB,
        model.needed_lean(work) / GB,
    )


def _rows(frames: int) -> Iterator[str]:
    yield (
        f"{'frames of':>12} {'SparseCtrl':>10} {'counted':>8} {'model':>8}"
        f" {'lean, counted':>14} {'model':>8}"
    )
    for side in SIDES:
        for controls in ((), (SPARSECTRL_RGB,)):
            count = len(controls)
            work, model = Work(frames, side, side, 2, count), memory_model(V3, controls)
            usual, modelled, least, least_modelled = _figures(work, model, controls)
            size = f"{side}x{side}"
            yield (
                f"{size:>12} {count:>10} {usual:8.2f} {modelled:8.2f}"
                f" {least:14.2f} {least_modelled:8.2f}"
            )


def _largest_sizes(frames: int) -> Iterator[str]:
    work, model = Work(frames, 512, 512), memory_model(V3)
    for card in CARDS:
        size = model.largest_size(work, card * GB - CONTEXT_BYTES)
        yield f"{card:>3} GB: {'none' if size is None else f'{size[0]}x{size[1]}'}"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=16)
    frames = parser.parse_args().frames
    register_guard()
    print(
        f"SD 1.5, motion module v3, float16, {frames} frames, guidance, decoded 4"
        f" frames at once; GB, weights included"
    )
    for row in _rows(frames):
        print(row)
    print(
        "\nlargest square frames that are let in (of each card's memory, 0.5 GiB left"
        " to the driver)"
    )
    for row in _largest_sizes(frames):
        print(row)


if __name__ == "__main__":
    main()
