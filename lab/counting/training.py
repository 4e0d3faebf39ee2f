"""Count the GPU memory and the operations of a training step of SD 1.5, without a GPU.

``python -m lab.counting.training [CONFIG ...]``: each config's forward, backward and
optimizer run in its precision on a CUDA device that computes nothing (``fake_cuda``),
with the optimizer, the moving average and the encoders in memory. A mistake of device
or dtype ends it. Not seen: gaps of the allocator, work space of cuDNN and cuBLAS, the
driver's context, the reading of videos.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
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
from animatediff.conditioning.conditions import TextStack
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
    """The cost of one turn of a training."""

    trained: int
    """Values that the optimizer changes."""
    bytes: int
    """Device memory at the peak."""
    tflop: float
    """Operations of a turn, forward and backward, in 10^12."""


def count(config: TrainConfig) -> Cost:
    """Return the cost of one process, where the device ``takes_gradients``.

    Raises what a step raises, TypeError for a loss that is not float32, and ValueError
    for a trained parameter without a gradient.
    """
    learner, vae = _models(config)
    with _as_on_a_gpu() as mode:
        to_fake(learner, mode, torch.float32, trainable=True)
        learner.encoders = Encoders(to_fake(vae, mode, torch.float32), TextStack(()))
        resting = 4 * TEXT_VALUES + _unique_bytes(learner) + _unique_bytes(vae)
        with LiveStorages() as live, Flops() as counter:
            operations = _turn(learner, config, counter)
    return Cost(
        trained=sum(parameter.numel() for parameter in learner.trained().values()),
        bytes=resting + live.peak,
        tflop=operations / 1e12,
    )


def _models(config: TrainConfig) -> tuple[Any, Any]:
    """Return the learner and the autoencoder on the meta device."""
    with (
        torch.device("meta"),
        patch("animatediff.training.builders.load_base", _nothing_loaded),
    ):
        learner = build_learner(config, GlobalBatch(config.batch_size))
        vae: Any = AutoencoderKL(**VAE)
        return learner, vae.to(memory_format=torch.channels_last)


@contextmanager
def _as_on_a_gpu() -> Iterator[FakeTensorMode]:
    """Answer torch and the attention as a GPU with half precision does."""
    answers = {  # torch.autocast asks these
        "amp.common.amp_definitely_not_available": False,
        "is_bf16_supported": True,
    }
    with ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(patch(f"torch.cuda.{name}", return_value=answer))
        stack.enter_context(patch("animatediff.models.attention._sdpa", _flash))
        yield stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))


def _turn(learner: Any, config: TrainConfig, counter: Flops) -> int:
    """Run one turn. Return the operations of forward and backward."""
    parameters = learner.trained()
    average = MovingAverage(parameters, config.ema.decay)
    # capturable: the optimizer reads no number off the device
    optimizer = torch.optim.AdamW(parameters.values(), capturable=True)
    _have_state(optimizer, parameters.values())
    _encode(learner, config)
    batch, before = _batch(learner, config), counter.total
    with _autocast(config.precision):
        losses = learner(batch)
    if losses.dtype != torch.float32:
        raise TypeError(f"the loss is {losses.dtype}")
    losses.mean().backward()
    operations = counter.total - before
    _check_gradients(parameters)
    torch.nn.utils.clip_grad_norm_(parameters.values(), config.max_grad_norm)
    optimizer.step()
    learner.after_step()
    average.update()
    return operations


def _check_gradients(parameters: Mapping[str, nn.Parameter]) -> None:
    missing = [name for name, weight in parameters.items() if weight.grad is None]
    if missing:
        raise ValueError(f"no gradient: {', '.join(missing)}")


def _nothing_loaded(
    config: TrainConfig, *, motion: bool
) -> tuple[UNet3DConditionModel, Any]:
    """Stand for the reading of the base model and its motion module."""
    version = str(config.model.motion_module_version)
    module = MOTION_MODULE_VERSIONS[version] if motion else None
    unet: Any = UNet3DConditionModel(SD15.unet_config, module)
    unet.to(memory_format=torch.channels_last)
    return unet.requires_grad_(False), SimpleNamespace()


def _have_state(
    optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]
) -> None:
    """Give the optimizer the state that it has after a run's first step."""
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()


def _flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend as a GPU does in half precision.

    Without a GPU torch would choose the way that writes all scores.
    """
    if q.dtype == torch.float32:
        return F.scaled_dot_product_attention(q, k, v)
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]


def _unique_bytes(model: nn.Module) -> int:
    """Return the bytes of all weights; each counts once."""
    tensors = {id(tensor): tensor for tensor in model.parameters()}
    tensors |= {id(tensor): tensor for tensor in model.buffers()}
    return sum(tensor.nbytes for tensor in tensors.values())


def _frames(config: TrainConfig) -> int:
    """Return the frames of an item."""
    return 1 if STAGES[config.stage].single_frames else config.data.num_frames


def _encode(learner: DenoisingLearner, config: TrainConfig) -> None:
    """Encode the pictures of a clip, or all pictures of a turn of single frames."""
    items = config.batch_size if STAGES[config.stage].single_frames else 1
    shape = (items * _frames(config), 3, config.data.height, config.data.width)
    with torch.no_grad():
        learner.encoders.moments(torch.empty(shape))


def _batch(learner: DenoisingLearner, config: TrainConfig) -> dict[str, Tensor]:
    """Return a batch as ``learner.prepare`` makes it of a turn's clips."""
    items = config.batch_size
    times = {
        name: torch.zeros(items, dtype=torch.long, device=DEVICE)
        for name in learner.draw_timesteps(0.5)
    }
    text = torch.empty(items, 77, SD15.unet_config.cross_attention_dim, device=DEVICE)
    latents = torch.empty(_shape(config, 4, 8), device=DEVICE)
    batch = {
        "latents": latents,
        "noise": latents.clone(),
        "text": text,
        "no_text": text,
        **times,
    }
    if config.model.control:
        channels, factor = (5, 8) if config.model.control == "rgb" else (4, 1)
        batch["condition"] = torch.empty(
            _shape(config, channels, factor), device=DEVICE
        )
    return batch


def _shape(config: TrainConfig, channels: int, factor: int) -> tuple[int, ...]:
    """Return (b, c, f, h, w), with pixels divided by ``factor``."""
    height, width = config.data.height // factor, config.data.width // factor
    return config.batch_size, channels, _frames(config), height, width


def _autocast(precision: str) -> AbstractContextManager[Any]:
    """Return the context of accelerate's mixed precision."""
    if precision == "no":
        return nullcontext()
    return torch.autocast("cuda", PRECISIONS[precision])


def _row(name: str, config: TrainConfig) -> str:
    """Return a row of the table."""
    cost, data = count(config), config.data
    size = f"{config.batch_size} x {_frames(config)} | {data.width}x{data.height}"
    millions, gigabytes = cost.trained / 1e6, cost.bytes / GB
    figures = f"{millions:.1f} | {gigabytes:.1f} | {cost.tflop:.1f}"
    return f"| {name} | {size} | {config.precision} | {figures} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table. Return the exit code."""
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
        arguments = sys.argv[1:] if argv is None else argv
        return run_with_gradients("lab.counting.training", arguments)
    overrides: list[str] = []
    if options.batch_size is not None:
        overrides = [f"batch_size={options.batch_size}"]
    print(
        "| config | batch x frames | pixels | precision | millions trained | GB |"
        " TFLOP a turn |"
    )
    print("|---|---|---|---|---|---|---|")
    for file in options.configs or [CONFIGS / f"{name}.yaml" for name in COUNTED]:
        print(_row(file.stem, load_config(file, overrides)), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
