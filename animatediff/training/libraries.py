"""Functions of libraries whose annotations are missing or too narrow, with types."""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.optimization import get_scheduler
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from safetensors import safe_open
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from ..families import DEFAULT


@contextmanager
def seeded(seed: int) -> Generator[None]:
    """Seed torch's CPU generator in the block, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
        torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
        yield


def move_towards(
    averages: Iterable[Tensor], values: Iterable[Tensor], share: float
) -> None:
    """Move every average, in place, by ``share`` of the distance to its value."""
    torch._foreach_lerp_(list(averages), list(values), share)  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]


def uniform(count: int, rng: torch.Generator) -> list[float]:
    """``count`` random numbers in 0..1, in double precision."""
    numbers: Any = torch.rand(count, generator=rng, dtype=torch.float64)
    return numbers.tolist()


def permutation(count: int, rng: torch.Generator) -> list[int]:
    """The numbers below ``count`` in random order."""
    numbers: Any = torch.randperm(count, generator=rng)
    return numbers.tolist()


def pieces(tensor: Tensor, sizes: int | list[int]) -> tuple[Tensor, ...]:
    """``tensor`` split along its first axis."""
    untyped: Any = tensor
    return untyped.split(sizes)


def from_numpy(array: npt.NDArray[Any]) -> Tensor:
    """A tensor that shares the memory of ``array``."""
    return torch.from_numpy(array)  # pyright: ignore[reportUnknownMemberType]


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module of ``model`` with its name."""
    yield from model.named_modules()  # pyright: ignore[reportUnknownMemberType]


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file."""
    save_file(dict(tensors), path, metadata=dict(metadata))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file."""
    untyped_open: Any = safe_open
    with untyped_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in list(file.keys())}
        return tensors, file.metadata()


def save_config(model: Any, folder: Path) -> None:
    """Write the config of an object of diffusers or transformers."""
    model.save_pretrained(folder)


def channels_last(model: nn.Module) -> None:
    """Keep the weights of ``model`` in channels_last order."""
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def ddim_scheduler(beta_schedule: str, **changes: Any) -> DDIMScheduler:
    """A DDIM scheduler on the family's noise levels, with the named beta schedule."""
    settings: dict[str, Any] = {
        **DEFAULT.noise_schedule,
        "beta_schedule": beta_schedule,
    }
    return DDIMScheduler(**settings, **changes)


def diffusers_vae(**config: Any) -> Any:
    """A new AutoencoderKL."""
    return AutoencoderKL(**config)


def diffusers_unet(**config: Any) -> Any:
    """A new UNet2DConditionModel."""
    return UNet2DConditionModel(**config)


def clip_text_config(**config: Any) -> CLIPTextConfig:
    """The config of a CLIPTextModel."""
    return CLIPTextConfig(**config)


def clip_text_model(config: CLIPTextConfig) -> CLIPTextModel:
    """A new CLIPTextModel."""
    return CLIPTextModel(config)


class Board:
    """TensorBoard files in ``folder``; earlier events from ``first_step`` on vanish."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=first_step)

    def number(self, name: str, value: float, step: int) -> None:
        """Add a point to a curve."""
        self._writer.add_scalar(name, value, step)

    def picture(self, name: str, pixels: npt.NDArray[np.uint8], step: int) -> None:
        """Add a picture (H, W, 3)."""
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is pending."""
        self._writer.close()


class Plot:
    """A matplotlib figure with a legend."""

    def __init__(self, xlabel: str, ylabel: str, *, logarithmic: bool) -> None:
        from matplotlib.figure import Figure

        self._figure: Any = Figure(figsize=(8, 4.5), layout="constrained")
        self._axes = self._figure.add_subplot()
        yscale = "log" if logarithmic else "linear"
        self._axes.set(xlabel=xlabel, ylabel=ylabel, yscale=yscale)

    def line(
        self,
        x: Sequence[float],
        y: npt.NDArray[np.float64],
        label: str,
        *,
        faint: bool = False,
    ) -> None:
        """Add a curve."""
        style = {"linewidth": 0.7, "alpha": 0.5} if faint else {}
        self._axes.plot(x, y, label=label, **style)

    def save(self, path: Path) -> None:
        """Write the figure as a picture."""
        self._axes.legend()
        self._figure.savefig(path, dpi=100)


def learning_rate_schedule(
    name: Literal["constant", "cosine"],
    optimizer: torch.optim.Optimizer,
    warmup_steps: int,
    steps: int,
) -> torch.optim.lr_scheduler.LambdaLR:
    """A schedule of diffusers, see ``config.ScheduleSection``."""
    names = {"constant": "constant_with_warmup", "cosine": "cosine"}
    return get_scheduler(
        names[name],
        optimizer,
        num_warmup_steps=warmup_steps,
        num_training_steps=steps,
    )
