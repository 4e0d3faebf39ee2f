"""What a step of training SD 1.5 takes of a GPU, counted without one: python -m
lab.counting.training [CONFIG ...]

Each config's forward, backward and optimizer run in its precision on a CUDA device that
computes nothing (``fake_cuda``), with the optimizer, the moving average and the
encoders beside them. A mistake of device or dtype ends it. Not seen: gaps of the
allocator, work space of cuDNN and cuBLAS, the driver's context, the reading of videos.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from animatediff.catalog import MOTION_MODULE_VERSIONS
from animatediff.families import SD15
from animatediff.models.unet import UNet3DConditionModel
from animatediff.settings import PROJECT_ROOT
from animatediff.training.config import TrainConfig, load_config
from animatediff.training.ema import MovingAverage
from animatediff.training.feeding import GlobalBatch
from animatediff.training.learners import DenoisingLearner, Encoders
from animatediff.training.stages import STAGES, build_learner
from lab.counting.fake_cuda import (
    DEVICE,
    Flops,
    LiveStorages,
    run_with_gradients,
    takes_gradients,
    to_fake,
)
from lab.counting.memory import GB, TEXT_VALUES, VAE

CONFIGS = PROJECT_ROOT / "configs" / "training"
COUNTED = (
    "image",
    "lora",
    "domain_adapter",
    "motion",
    "motion_lora",
    "sparsectrl",
    "lcm",
)
PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Cost:
    """``trained``: values that the optimizer moves. ``bytes``: at the peak. ``tflop``:
    of a turn, forward and back.
    """

    trained: int
    bytes: int
    tflop: float


def count(config: TrainConfig) -> Cost:
    """Of one process, where the device ``takes_gradients``. Raises what a step raises."""
    with (
        torch.device("meta"),
        patch("animatediff.training.builders.load_base", _nothing_loaded),
    ):
        learner: Any = build_learner(config, GlobalBatch(config.batch_size))
        vae: Any = AutoencoderKL(**VAE).to(memory_format=torch.channels_last)
    with ExitStack() as stack:
        for name, value in (
            ("amp.common.amp_definitely_not_available", False),
            ("is_bf16_supported", True),
        ):
            stack.enter_context(
                patch(f"torch.cuda.{name}", return_value=value)
            )  # asked by torch.autocast
        stack.enter_context(patch("animatediff.models.attention._sdpa", _flash))
        mode = stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        to_fake(learner, mode, torch.float32, trainable=True)
        learner.encoders = Encoders(to_fake(vae, mode, torch.float32), None, None)
        resting = 4 * TEXT_VALUES + sum(
            _unique_bytes(model) for model in (learner, vae)
        )
        live = stack.enter_context(LiveStorages())
        counter = stack.enter_context(Flops())
        parameters = learner.trained()
        average = MovingAverage(parameters, config.ema.decay)
        optimizer = torch.optim.AdamW(
            parameters.values(), capturable=True
        )  # reads no number off the device
        _have_state(optimizer, parameters.values())
        _encode(learner, config)
        batch, before = _batch(learner, config), counter.total
        with _autocast(config.precision):
            losses = learner(batch)
        if losses.dtype != torch.float32:
            raise TypeError(f"the loss is {losses.dtype}")
        losses.mean().backward()
        tflop = (counter.total - before) / 1e12
        if without := [
            name for name, parameter in parameters.items() if parameter.grad is None
        ]:
            raise ValueError(f"no gradient: {', '.join(without)}")
        torch.nn.utils.clip_grad_norm_(parameters.values(), config.max_grad_norm)
        optimizer.step()
        learner.after_step()
        average.update()
    return Cost(
        sum(parameter.numel() for parameter in parameters.values()),
        resting + live.peak,
        tflop,
    )


def _nothing_loaded(
    config: TrainConfig, *, motion: bool
) -> tuple[UNet3DConditionModel, Any]:
    """Stands for what reads the base model and its motion module."""
    unet = UNet3DConditionModel(
        SD15.unet_config,
        MOTION_MODULE_VERSIONS[str(config.model.motion_module_version)]
        if motion
        else None,
    )
    unet.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return unet.requires_grad_(False), SimpleNamespace()


def _have_state(
    optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]
) -> None:
    """As after a run's first step."""
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()


def _flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What a GPU's attention takes in half precision; without one torch would choose
    the way that writes all scores.
    """
    if q.dtype == torch.float32:
        return F.scaled_dot_product_attention(q, k, v)
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]


def _unique_bytes(model: nn.Module) -> int:
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.nbytes for tensor in tensors.values())


def _frames(config: TrainConfig) -> int:
    return 1 if STAGES[config.stage].single_frames else config.data.num_frames


def _encode(learner: DenoisingLearner, config: TrainConfig) -> None:
    """The pictures of a turn, all at once where they are single frames."""
    frames, data = (
        _frames(config)
        * (config.batch_size if STAGES[config.stage].single_frames else 1),
        config.data,
    )
    with torch.no_grad():
        learner.encoders.moments(torch.empty(frames, 3, data.height, data.width))


def _batch(learner: DenoisingLearner, config: TrainConfig) -> dict[str, Tensor]:
    """What ``learner.prepare`` makes of a turn's clips."""
    items, frames, height, width = (
        config.batch_size,
        _frames(config),
        config.data.height // 8,
        config.data.width // 8,
    )
    text, place = (
        torch.empty(items, 77, SD15.unet_config.cross_attention_dim, device=DEVICE),
        learner.draw_timesteps(0.5),
    )
    latents = torch.empty(items, 4, frames, height, width, device=DEVICE)
    condition = {}
    if config.model.control:
        factor = 1 if config.model.control == "rgb" else 8
        channels = 5 if config.model.control == "rgb" else 4
        condition["condition"] = torch.empty(
            items, channels, frames, height * factor, width * factor, device=DEVICE
        )
    times = {
        name: torch.zeros(items, dtype=torch.long, device=DEVICE) for name in place
    }
    return {
        "latents": latents,
        "noise": latents.clone(),
        "text": text,
        "no_text": text,
        **times,
        **condition,
    }


def _autocast(precision: str) -> AbstractContextManager[Any]:
    """What accelerate's mixed precision is in."""
    return (
        nullcontext()
        if precision == "no"
        else torch.autocast("cuda", PRECISIONS[precision])
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lab.counting.training",
        description=(__doc__ or "").split("\n")[0],
    )
    parser.add_argument(
        "configs",
        nargs="*",
        type=Path,
        help=f"none: {', '.join(COUNTED)} of configs/training",
    )
    parser.add_argument("--batch-size", type=int, help="in place of the configs' own")
    options = parser.parse_args(argv)
    if not takes_gradients():
        return run_with_gradients(
            "lab.counting.training", sys.argv[1:] if argv is None else argv
        )
    overrides = (
        [] if options.batch_size is None else [f"batch_size={options.batch_size}"]
    )
    print(
        "| config | batch x frames | pixels | precision | millions trained | GB |"
        " TFLOP a turn |"
    )
    print("|---|---|---|---|---|---|---|")
    for file in options.configs or [CONFIGS / f"{name}.yaml" for name in COUNTED]:
        config = load_config(file, overrides)
        cost, data = count(config), config.data
        what = f"{config.batch_size} x {_frames(config)} | {data.width}x{data.height} | {config.precision}"
        figures = f"{cost.trained / 1e6:.1f} | {cost.bytes / GB:.1f} | {cost.tflop:.1f}"
        print(f"| {file.stem} | {what} | {figures} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
