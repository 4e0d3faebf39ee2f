"""Which clip has which place in which step, its random numbers, and how it is read.

Everything about an item follows from the run's seed, the step and the item's place in
the global batch. Neither the number of processes nor a resume changes what is trained.
"""

import hashlib
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..atomic import written_whole
from .libraries import load_tensors, save_tensors
from .source import SourceDataset, order

Item = Mapping[str, Any]
"""An item of ``data.py``. From the cache it has ``mean`` and ``std`` (f, 4, h, w)
instead of ``pixels``. For a scribble branch it has ``sketches``, uint8 (f, 1, H, W).
"""

FRAMEWISE = ("mean", "std", "mask", "sketches")
"""The tensors of an item that the cache stores, next to the caption."""
_EDGE_FROM, _EDGE_RANGE = 0.15, 0.35
"""Slopes, relative to a frame's steepest, at which a sketch is black, and the range
over which it turns white.
"""


@dataclass(frozen=True)
class Slot:
    """One place of a step's global batch, and the clip that takes it."""

    step: int
    position: int
    epoch: int
    index: int

    def generator(self, seed: int) -> torch.Generator:
        """The CPU generator of this place."""
        return generator(seed, self.step, self.position)


Entry = tuple[Slot, Item]


def generator(*numbers: int) -> torch.Generator:
    """A CPU generator whose seed is a hash of ``numbers``."""
    digest = hashlib.sha256(repr(numbers).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


@dataclass(frozen=True)
class GlobalBatch:
    """How a step's batch is divided among processes and accumulation turns."""

    batch_size: int
    accumulation: int = 1
    num_processes: int = 1

    def __len__(self) -> int:
        return self.batch_size * self.accumulation * self.num_processes

    def positions(self, turn: int, process: int) -> range:
        """The places that ``process`` fills in ``turn``."""
        start = (turn * self.num_processes + process) * self.batch_size
        return range(start, start + self.batch_size)


class _Epochs:
    """Shuffled orders of all clips, one per epoch. Only recent ones are kept."""

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._seed = size, seed
        self._orders: dict[int, npt.NDArray[np.int64]] = {}

    def forget_before(self, count: int) -> None:
        """Drop the epochs that end before item ``count`` of the run."""
        first = count // self._size
        self._orders = {
            epoch: indices for epoch, indices in self._orders.items() if epoch >= first
        }

    def locate(self, count: int) -> tuple[int, int]:
        """The epoch and the clip of item ``count`` of the run."""
        epoch, place = divmod(count, self._size)
        if epoch not in self._orders:
            self._orders[epoch] = order(self._seed, epoch, self._size)
        return epoch, int(self._orders[epoch][place])


def slots(
    batch: GlobalBatch, size: int, seed: int, process: int, steps: range
) -> Iterator[list[Slot]]:
    """Yield the slots of ``process`` in ``steps``: one list per accumulation turn.

    Each epoch is one shuffled pass through all ``size`` clips. A batch may contain the
    end of one epoch and the beginning of the next.
    """
    epochs = _Epochs(size, seed)
    for step in steps:
        first = step * len(batch)
        epochs.forget_before(first)
        for turn in range(batch.accumulation):
            yield [
                Slot(step, position, *epochs.locate(first + position))
                for position in batch.positions(turn, process)
            ]


class LatentCache:
    """Encoded clips, one file each.

    ``key`` must contain everything that determines them: the data, their cut, the VAE.
    """

    def __init__(self, folder: Path, key: str, variants: int) -> None:
        self.folder = folder / hashlib.sha256(key.encode()).hexdigest()[:16]
        self.variants = variants

    def variant(self, epoch: int) -> int:
        """The epoch whose cut of a clip is used in ``epoch``."""
        return epoch % self.variants

    def read(self, epoch: int, index: int) -> dict[str, Any] | None:
        """The item without its pixels, or None if it is not encoded yet."""
        path = self._path(epoch, index)
        if not path.is_file():
            return None
        tensors, metadata = load_tensors(path)
        return {**tensors, "caption": metadata["caption"]}

    def write(
        self, epoch: int, index: int, caption: str, tensors: Mapping[str, Tensor]
    ) -> None:
        """Store an item atomically, so that several processes may share a folder."""
        content = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
        with written_whole(self._path(epoch, index)) as part:
            save_tensors(part, content, {"caption": caption})

    def _path(self, epoch: int, index: int) -> Path:
        name = f"{index}-{self.variant(epoch)}.safetensors"
        return self.folder / f"{index // 1000:04}" / name


class Reader(Dataset[Entry]):
    """Reads the items of slots for torch's DataLoader, from the cache or the source.

    ``captions``: a source of new captions in every epoch, for clips that are cached.
    """

    def __init__(
        self,
        clips: SourceDataset,
        cache: LatentCache | None = None,
        captions: SourceDataset | None = None,
        *,
        sketches: bool = False,
    ) -> None:
        self.clips, self.cache = clips, cache
        self.captions, self.sketches = captions, sketches

    def __getitem__(self, index: Any) -> Entry:
        """The entry of the slot ``index``."""
        slot: Slot = index
        item = self._frames(slot)
        if self.captions is not None:
            item = {**item, **self.captions.item(slot.epoch, slot.index)}
        return slot, item

    def _frames(self, slot: Slot) -> Item:
        epoch = slot.epoch
        if self.cache is not None:
            epoch = self.cache.variant(epoch)
            cached = self.cache.read(epoch, slot.index)
            if cached is not None:
                return cached
        item = self.clips.item(epoch, slot.index)
        if self.sketches and "sketches" not in item:
            item = {**item, "sketches": sketched(item["pixels"])}
        return item


def sketched(pixels: Tensor) -> Tensor:
    """Edges of frames, white on black: (f, 3, H, W) in -1..1 -> uint8 (f, 1, H, W).

    An edge is where the slope of the grey level is steep relative to the steepest of
    the frame. A simple replacement for the sketches of the published scribble branch.
    """
    grey = F.pad(pixels.mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    grey = F.avg_pool2d(grey, 3, 1)
    across = F.pad(grey[..., 2:] - grey[..., :-2], (1, 1, 0, 0))
    down = F.pad(grey[..., 2:, :] - grey[..., :-2, :], (0, 0, 1, 1))
    slope = (across**2 + down**2).sqrt()
    steepest = slope.flatten(1).amax(dim=1)[:, None, None, None].clamp(min=1e-3)
    white = (slope / steepest - _EDGE_FROM).clamp(0, _EDGE_RANGE) / _EDGE_RANGE
    return (white * 255).round().to(torch.uint8)


def load(
    reader: Dataset[Entry], batches: Iterator[list[Slot]], workers: int
) -> Iterator[list[Entry]]:
    """Read ``batches`` ahead in ``workers`` processes, or here if there are none."""
    if workers == 0:
        return ([reader[slot] for slot in batch] for batch in batches)
    loader = DataLoader(
        reader,
        batch_sampler=_Once(batches),
        num_workers=workers,
        collate_fn=list,
        # without one of its own, the loader would draw from the process's generator
        generator=generator(0),
        worker_init_fn=_ignore_sigterm,
    )
    return iter(loader)


def _ignore_sigterm(_number: int) -> None:
    """Keep readers alive to the end of a step: launchers send them SIGTERM as well."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Once:
    """A batch sampler for a single pass."""

    def __init__(self, batches: Iterator[list[Slot]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[Slot]]:
        return self._batches


def stratified_place(seed: int, slot: Slot, total: int, draw: float) -> float:
    """A place in 0..1 for one of the ``total`` items of a step.

    Each of ``total`` equal parts of 0..1 gets one item; ``draw`` is its place inside.
    """
    parts = torch.randperm(total, generator=generator(seed, slot.step, -1))
    return (int(parts[slot.position]) + draw) / total
