"""Training data: what a source is, and what an item of it holds.

An item depends only on the source's config, the epoch and the index, so every process
reads the same items, and so does a resumed run. Its keys:

    pixels         float32 (f, 3, H, W), -1..1
    caption        str; text dropout happens later
    index, frames  int64 () and (f,): which clip, and which of its frames
    broken         (file, reason) for each file that could not be read on the way here

Drawn sources may add:

    attributes     dict[str, int]: what the caption states, as class numbers
    strength       float32 (): the strength at which a LoRA should act on the item
    mask           float32 (f, H/8, W/8): 1 for latents that show more than background
    sketches       uint8 (f, 1, H, W): white outlines on black
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import field_validator
from torch.utils.data import Dataset

from .section import Count, Section, Side, Whole

Item = dict[str, Any]
Broken = Sequence[tuple[str, str]]
"""File names, each with the reason why the file cannot be read."""


class DataSource(Section, ABC):
    """The ``data`` table of a config: where clips come from, and how they are cut.

    A kind of source is a subclass. ``data.SOURCES`` lists the built-in kinds; any
    other class is named by its import path.
    """

    moves: ClassVar[bool] = True
    """Whether an item can have more than one frame."""
    has_captions_alone: ClassVar[bool] = False
    """Whether captions can be read without pictures, by ``open(0)``."""

    kind: str
    source: str | None = None
    """The import path of the class, such as ``lab.shapeworld.source:World``."""
    num_frames: Count = 16
    width: Side = 256
    height: Side = 256
    workers: Whole = 0
    """Reader processes for each training process; 0 reads in the training process."""
    seed: Whole = 0
    """Seed of the data. It is independent of the run's seed."""

    @field_validator("kind")
    @classmethod
    def _check_kind(cls, kind: str) -> str:
        if kind != cls.model_fields["kind"].default:
            raise ValueError(cls.model_fields["kind"].default)
        return kind

    @abstractmethod
    def open(self, num_frames: int, *, sketches: bool = False) -> "SourceDataset":
        """The items, with ``num_frames`` frames each.

        ``sketches``: items contain sketches, if the source has its own. Raises
        ConfigurationError if the data do not exist.
        """

    def open_captions(self) -> "SourceDataset | None":
        """Captions alone, new in every epoch; None if a clip keeps its caption."""
        return self.open(0) if self.has_captions_alone else None

    def deciding(self) -> dict[str, Any]:
        """The values that affect what is learned, for fingerprints."""
        return self.model_dump(mode="json", exclude={"source", "workers"})


class SourceDataset(Dataset[Item], ABC):
    """A map-style dataset whose keys are (epoch, index); a bare index means epoch 0."""

    @property
    def attributes(self) -> Mapping[str, int]:
        """The number of classes of each attribute that captions state."""
        return {}

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def item(self, epoch: int, index: int) -> Item:
        """Item ``index`` as ``epoch`` shows it."""

    def __getitem__(self, key: int | tuple[int, int]) -> Item:
        """``item`` by key. Raises IndexError past the end."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.item(epoch, index)

    def note(self, broken: Broken) -> None:
        """Count the broken files of an item that another process read."""

    def report(self) -> Broken:
        """All broken files found so far, sorted by name."""
        return []


def clip_indices(
    num_available: int, num_frames: int, stride: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Frame numbers of a clip by the published rule: int64 (num_frames,).

    A random stretch of (num_frames - 1) x stride + 1 frames, or the whole video if it
    is shorter, sampled evenly and truncated to integers. A short video therefore gives
    denser or repeated frames. Source: animatediff/data/dataset.py of the reference.
    """
    length = min(num_available, (num_frames - 1) * stride + 1)
    start = int(rng.integers(num_available - length + 1))
    return np.linspace(start, start + length - 1, num_frames, dtype=np.int64)


def order(seed: int, epoch: int, size: int) -> npt.NDArray[np.int64]:
    """The shuffled item numbers of ``epoch``: int64 (size,)."""
    return np.random.default_rng([seed, epoch]).permutation(size)
