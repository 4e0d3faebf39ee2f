"""Which clip stands where in which step, what chance decides for it, and how it comes
from the disk.

Everything about an item follows from the run's seed, the step and the item's place in
the global batch. So neither the number of processes nor a resume changes what is
trained on.
"""

import hashlib
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..atomic import written_whole
from .data import SourceDataset, order

Item = Mapping[str, Any]
"""As ``data.py`` describes it. From the cache it has ``mean`` and ``std`` (f, 4, h, w)
in place of ``pixels``; for a scribble branch it has ``sketches``, uint8 (f, 1, H, W).
"""

FRAMEWISE = ("mean", "std", "mask", "sketches")
"""What the cache keeps of an item, beside its caption."""


@dataclass(frozen=True)
class Slot:
    """One place of the global batch of a step, and the clip that stands there."""

    step: int
    position: int
    epoch: int
    index: int

    def generator(self, seed: int) -> torch.Generator:
        """Chance for this place, on the CPU."""
        return generator(seed, self.step, self.position)


def generator(*numbers: int) -> torch.Generator:
    """A CPU generator whose seed is a hash of ``numbers``."""
    digest = hashlib.sha256(repr(numbers).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


@dataclass(frozen=True)
class GlobalBatch:
    """How the places of a step's batch fall to processes and to the turns of gradient
    accumulation.
    """

    batch_size: int
    accumulation: int = 1
    num_processes: int = 1

    def __len__(self) -> int:
        return self.batch_size * self.accumulation * self.num_processes

    def positions(self, turn: int, process: int) -> range:
        start = (turn * self.num_processes + process) * self.batch_size
        return range(start, start + self.batch_size)


def slots(
    batch: GlobalBatch, size: int, seed: int, process: int, steps: range
) -> Iterator[list[Slot]]:
    """What ``process`` reads in ``steps``: one list for each turn of accumulation, in
    order.

    Every epoch is one shuffled pass through all clips; a batch may end one epoch and
    begin the next.
    """
    known: dict[int, np.ndarray] = {}
    for step in steps:
        first = step * len(batch)
        known = {
            epoch: indices for epoch, indices in known.items() if epoch >= first // size
        }
        for turn in range(batch.accumulation):
            places = []
            for position in batch.positions(turn, process):
                epoch, place = divmod(first + position, size)
                if epoch not in known:
                    known[epoch] = order(seed, epoch, size)
                places.append(Slot(step, position, epoch, int(known[epoch][place])))
            yield places


class LatentCache:
    """Encoded clips in one file each. What is in them depends on ``key``: the data,
    their cut, and the VAE.
    """

    def __init__(self, folder: Path, key: str, variants: int) -> None:
        self.folder = folder / hashlib.sha256(key.encode()).hexdigest()[:16]
        self.variants = variants

    def variant(self, epoch: int) -> int:
        """The epoch whose cut of a clip stands for the one of ``epoch``."""
        return epoch % self.variants

    def read(self, epoch: int, index: int) -> dict[str, Any] | None:
        """The item without its pixels; None if it was not encoded yet."""
        path = self._path(epoch, index)
        if not path.is_file():
            return None
        with safe_open(path, framework="pt") as file:
            item: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            item["caption"] = file.metadata()["caption"]
        return item

    def write(
        self, epoch: int, index: int, caption: str, tensors: Mapping[str, Tensor]
    ) -> None:
        """Whole or not at all, so that several processes may share a folder."""
        whole = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
        with written_whole(self._path(epoch, index)) as part:
            save_file(whole, part, metadata={"caption": caption})

    def _path(self, epoch: int, index: int) -> Path:
        return (
            self.folder
            / f"{index // 1000:04}"
            / f"{index}-{self.variant(epoch)}.safetensors"
        )


class Reader(Dataset[tuple[Slot, Item]]):
    """Slots to items, for torch's DataLoader: from the cache, or from the data set.

    ``words``, if given, says them anew in every epoch, also where a clip's latents are
    kept.
    """

    def __init__(
        self,
        clips: SourceDataset,
        cache: LatentCache | None = None,
        words: SourceDataset | None = None,
        *,
        sketches: bool = False,
    ) -> None:
        self.clips, self.cache, self.words, self.sketches = (
            clips,
            cache,
            words,
            sketches,
        )

    def __getitem__(self, index: Any) -> tuple[Slot, Item]:
        slot: Slot = index
        item = self._frames(slot)
        return slot, item if self.words is None else {
            **item,
            **self.words.item(slot.epoch, slot.index),
        }

    def _frames(self, slot: Slot) -> Item:
        epoch = slot.epoch if self.cache is None else self.cache.variant(slot.epoch)
        if (
            self.cache is not None
            and (kept := self.cache.read(epoch, slot.index)) is not None
        ):
            return kept
        item = self.clips.item(epoch, slot.index)
        if not self.sketches or "sketches" in item:
            return item
        return {**item, "sketches": sketched(item["pixels"])}


def sketched(pixels: Tensor) -> Tensor:
    """The edges of frames (f, 3, H, W), -1..1, white on black: uint8 (f, 1, H, W).

    Where the gray level's slope is steep against the frame's steepest; a plain stand-in
    for the sketches that the published scribble branch was trained on.
    """
    gray = F.avg_pool2d(
        F.pad(pixels.mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate"), 3, 1
    )
    across = F.pad(gray[..., 2:] - gray[..., :-2], (1, 1, 0, 0))
    down = F.pad(gray[..., 2:, :] - gray[..., :-2, :], (0, 0, 1, 1))
    slope = (across**2 + down**2).sqrt()
    steepest = slope.flatten(1).amax(dim=1)[:, None, None, None].clamp(min=1e-3)
    return (
        ((slope / steepest - 0.15).clamp(0, 0.35) / 0.35 * 255).round().to(torch.uint8)
    )


def load(
    reader: Dataset[tuple[Slot, Item]], batches: Iterator[list[Slot]], workers: int
) -> Iterator[list[tuple[Slot, Item]]]:
    """What ``batches`` name, read ahead by ``workers`` processes, or here if there are
    none.
    """
    if workers == 0:
        return ([reader[slot] for slot in places] for places in batches)
    own = generator(
        0
    )  # the loader's own seed must not be taken from the process's chance
    loader = DataLoader(
        reader,
        batch_sampler=_Once(batches),
        num_workers=workers,
        collate_fn=list,
        generator=own,
        worker_init_fn=_begin_worker,
    )
    return iter(loader)


def _begin_worker(_number: int) -> None:
    """A launcher sends its SIGTERM to readers too: they go on, for the step that is not
    over, and end with it.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Once:
    """A sampler of batches that is gone through once."""

    def __init__(self, batches: Iterator[list[Slot]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[Slot]]:
        return self._batches


def stratified_place(seed: int, slot: Slot, total: int, draw: float) -> float:
    """A place in 0..1 for one of ``total`` items of a step, such that each of ``total``
    equal parts gets one.
    """
    parts = torch.randperm(total, generator=generator(seed, slot.step, -1))
    return (int(parts[slot.position]) + draw) / total
