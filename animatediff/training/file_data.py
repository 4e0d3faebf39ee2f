"""Clips and pictures read from a folder, with captions from text files or a table."""

from abc import abstractmethod
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from ..controls.pictures import fit_picture, read_picture
from ..errors import AssetError, InvalidRequest
from ..video.reading import count_frames, read_frames
from .libraries import from_numpy
from .manifests import PICTURE_SUFFIXES, VIDEO_SUFFIXES, Entry, open_listing
from .section import Count
from .source import Broken, DataSource, Item, SourceDataset, clip_indices

MOST_SUBSTITUTES = 16
"""How many further files are tried in place of a broken one."""
_NAMES_SHOWN = 5


class FolderSource(DataSource):
    """Files below ``root``, each with a caption."""

    root: Path
    manifest: Path | None = None
    """A table (.csv or .jsonl) of files below ``root`` and their captions. Without it,
    all files are used, with captions in .txt or .caption files next to them.
    """
    stride: Count = 4
    """Frames of the file per frame of the clip."""
    flip: bool = True
    """Mirror half of the clips. Turn it off if captions mention sides."""
    max_broken: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """The share of files that may be unreadable before training stops."""


class ClipFolder(FolderSource):
    """Videos. A clip is every ``stride``-th frame from a random start.

    Frames are resized to cover height x width and cropped about the centre.
    """

    kind: str = "clips"

    def open(self, num_frames: int, *, sketches: bool = False) -> "ClipDataset":  # noqa: ARG002 - these have none
        """See ``DataSource.open``."""
        return ClipDataset(self, num_frames)


class PictureFolder(FolderSource):
    """Still pictures (png, jpg, webp), fitted like the frames of a ``ClipFolder``."""

    moves: ClassVar[bool] = False
    kind: str = "pictures"

    def open(self, num_frames: int, *, sketches: bool = False) -> "PictureDataset":  # noqa: ARG002 - these have none
        """See ``DataSource.open``."""
        return PictureDataset(self)


class FileDataset(SourceDataset):
    """Items of a folder. A broken file is replaced by the next one that can be read.

    At most ``MOST_SUBSTITUTES`` files are tried, in the same order in every process.
    Raises AssetError, with the names of some files, if too many are broken.
    """

    suffixes: ClassVar[tuple[str, ...]]

    def __init__(self, source: FolderSource) -> None:
        self.source = source
        self.listing = open_listing(source.root, source.manifest, self.suffixes)
        self._broken: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.listing)

    def item(self, epoch: int, index: int) -> Item:
        """See ``SourceDataset.item``."""
        broken: list[tuple[str, str]] = []
        for step in range(min(MOST_SUBSTITUTES + 1, len(self))):
            place = (index + step) % len(self)
            entry = self.listing[place]
            try:
                content = self._content(entry, (epoch, index, step))
            except AssetError as error:
                reason = error.message.removeprefix(f"{entry.path.name}: ")
                broken.append((entry.name, reason))
                self.note(broken)
                continue
            return {**content, "index": torch.tensor(place), "broken": broken}
        raise AssetError(
            f"{len(broken)} files in a row cannot be read: {_first_names(broken)}",
            broken=broken,
        )

    def note(self, broken: Broken) -> None:
        """Raises AssetError if more files than ``max_broken`` allows are broken."""
        self._broken.update(broken)
        allowed = self.source.max_broken
        if len(self._broken) > allowed * len(self):
            raise AssetError(
                f"{len(self._broken)} of {len(self)} files cannot be read, more than"
                f" the share of {allowed:g} that max_broken allows:"
                f" {_first_names(self.report())}",
                broken=self.report(),
            )

    def report(self) -> Broken:
        """See ``SourceDataset.report``."""
        return sorted(self._broken.items())

    def _content(self, entry: Entry, place: tuple[int, int, int]) -> Item:
        if entry.name in self._broken:
            raise AssetError(self._broken[entry.name])
        if entry.caption is None:
            raise AssetError(entry.trouble)
        rng = np.random.default_rng([self.source.seed, *place])
        return {**self.read(entry, rng), "caption": entry.caption}

    @abstractmethod
    def read(self, entry: Entry, rng: np.random.Generator) -> Item:
        """The ``pixels`` and ``frames`` of a file. Raises AssetError."""

    def _mirrored(self, pixels: Tensor, rng: np.random.Generator) -> Tensor:
        if self.source.flip and rng.random() < 0.5:
            return pixels.flip(-1)
        return pixels


class ClipDataset(FileDataset):
    """The items of a ClipFolder."""

    suffixes = VIDEO_SUFFIXES

    def __init__(self, source: ClipFolder, num_frames: int) -> None:
        super().__init__(source)
        self.num_frames = num_frames
        # Caches only: an item must not depend on what was read before.
        self._packets: dict[str, int] = {}
        self._exact_counts: dict[str, int] = {}

    def read(self, entry: Entry, rng: np.random.Generator) -> Item:
        """See ``FileDataset.read``."""
        indices, frames = self._frames(entry, rng)
        pixels = from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
        pixels = self._mirrored(pixels, rng).contiguous()
        return {"pixels": pixels, "frames": from_numpy(indices)}

    def _frames(
        self, entry: Entry, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
        start = rng.bit_generator.state
        packets = self._count_packets(entry)
        try:
            return self._cut(entry, packets, rng)
        except AssetError:  # the file may have fewer frames than packets
            exact = self._count_exactly(entry)
            if exact == packets:
                raise
        rng.bit_generator.state = start
        return self._cut(entry, exact, rng)

    def _cut(
        self, entry: Entry, num_available: int, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
        source = self.source
        indices = clip_indices(num_available, self.num_frames, source.stride, rng)
        frames = read_frames(entry.path, indices.tolist(), source.width, source.height)
        return indices, frames

    def _count_packets(self, entry: Entry) -> int:
        if entry.name not in self._packets:
            self._packets[entry.name] = count_frames(entry.path)
        return self._packets[entry.name]

    def _count_exactly(self, entry: Entry) -> int:
        if entry.name not in self._exact_counts:
            self._exact_counts[entry.name] = count_frames(entry.path, exact=True)
        return self._exact_counts[entry.name]


class PictureDataset(FileDataset):
    """The items of a PictureFolder."""

    suffixes = PICTURE_SUFFIXES

    def read(self, entry: Entry, rng: np.random.Generator) -> Item:
        """See ``FileDataset.read``."""
        try:
            picture = read_picture(entry.path.read_bytes(), entry.name)
        except OSError as error:
            raise AssetError(f"{entry.path.name}: {error.strerror}") from error
        except InvalidRequest as error:
            raise AssetError(f"{entry.path.name}: {error.details['got']}") from error
        fitted = fit_picture(picture, self.source.width, self.source.height)
        pixels = self._mirrored(fitted[None] * 2 - 1, rng)
        return {"pixels": pixels, "frames": torch.zeros(1, dtype=torch.int64)}


def _first_names(broken: Broken) -> str:
    names = "; ".join(f"{name} ({reason})" for name, reason in broken[:_NAMES_SHOWN])
    rest = len(broken) - _NAMES_SHOWN
    return f"{names}; and {rest} more" if rest > 0 else names
