"""What training sees: clips of a folder, pictures of a folder, or the synthetic world,
each with its caption.

An item is a function of the source's config, the epoch and the index: the same in every
process and after a resume.

    pixels            float32 (f, 3, H, W), -1..1
    caption           str; never dropped here
    attributes        dict[str, int], what the caption says, see shapeworld.world.ATTRIBUTES; the world's only
    strength          float32 (), at which a LoRA acts on it: how much of its way the camera goes; the world's only
    index, frames     which clip, and which of its frames: int64 (), (f,)
    mask              float32 (f, H/8, W/8), 1 for latents that see more than background; the world's only
    sketches          uint8 (f, 1, H, W), white outlines on black, if the source says so; the world's only
    broken            (file, reason) pairs of what could not be read on the way to this item
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ..controls.pictures import fit_picture, read_picture
from ..errors import AssetError, ConfigurationError, InvalidRequest
from ..video.reading import count_frames, read_frames
from .manifests import PICTURE_SUFFIXES, VIDEO_SUFFIXES, Entry, open_listing
from .shapeworld import world
from .shapeworld.captions import describe

_SUBSTITUTES = 16  # how many further files are tried in place of a broken one

Item = dict[str, Any]


def _check(field: str, got: Any, right: bool, allowed: str) -> None:
    if not right:
        raise ConfigurationError(f"{field}: got {got!r}, allowed: {allowed}")


def _check_size(height: int, width: int) -> None:
    for field, side in (("height", height), ("width", width)):
        _check(field, side, side > 0 and side % 8 == 0, "a multiple of 8 pixels")


def _check_files(max_broken: float, seed: int) -> None:
    _check("max_broken", max_broken, 0 <= max_broken < 1, "a share from 0 to below 1")
    _check("seed", seed, seed >= 0, "0 or more")


@dataclass(frozen=True)
class ClipFolder:
    """Videos below ``root``: those that ``manifest`` names, or all, with captions in
    .txt files beside them.

    Every ``stride``-th frame from a random start, ``num_frames`` of them (1: a random
    picture), resized to cover height x width and cut about the centre. ``flip``:
    mirrored in half of the cases, a whole clip at a time; not for captions that name
    sides. Where a greater share of the files than ``max_broken`` cannot be read,
    training stops. Raises ConfigurationError.
    """

    root: Path
    manifest: Path | None = None
    num_frames: int = 16
    stride: int = 4
    height: int = 256
    width: int = 256
    flip: bool = False
    max_broken: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        _check("num_frames", self.num_frames, self.num_frames >= 1, "1 or more")
        _check("stride", self.stride, self.stride >= 1, "1 or more")
        _check_size(self.height, self.width)
        _check_files(self.max_broken, self.seed)


@dataclass(frozen=True)
class PictureFolder:
    """Still pictures (png, jpg, webp) below ``root``, else as ``ClipFolder``. Raises
    ConfigurationError.
    """

    root: Path
    manifest: Path | None = None
    height: int = 512
    width: int = 512
    flip: bool = False
    max_broken: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        _check_size(self.height, self.width)
        _check_files(self.max_broken, self.seed)


@dataclass(frozen=True)
class World:
    """``size`` clips of the synthetic world, of 64 x 64 pixels. Raises
    ConfigurationError.

    A clip is the same in every epoch; its words, and which ``num_frames`` neighbours of
    its 16 frames are taken, are not. With 0 frames an item is words alone, and nothing
    is drawn. ``shots``: each clip is shown in one of them; a shot named twice is taken
    twice as often. ``two_objects``: the share of clips with a second one. ``sketches``:
    items have the frames' outlines too, as a scribble branch is shown them.
    """

    size: int = 4096
    split: str = "train"
    shots: tuple[world.Shot, ...] = (world.PLAIN,)
    two_objects: float = 0.15
    num_frames: int = world.NUM_FRAMES
    sketches: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        _check("size", self.size, self.size >= 1, "1 or more")
        _check("split", self.split, self.split in world.SPLITS, ", ".join(world.SPLITS))
        _check("shots", self.shots, len(self.shots) > 0, "at least one")
        _check(
            "two_objects",
            self.two_objects,
            0 <= self.two_objects <= 1,
            "a share from 0 to 1",
        )
        _check(
            "num_frames",
            self.num_frames,
            0 <= self.num_frames <= world.NUM_FRAMES,
            f"0 to {world.NUM_FRAMES}",
        )
        _check("seed", self.seed, self.seed >= 0, "0 or more")


Source = ClipFolder | PictureFolder | World


def clip_indices(
    num_available: int, num_frames: int, stride: int, rng: np.random.Generator
) -> np.ndarray:
    """Which frames a clip is made of, by the published rule
    (animatediff/data/dataset.py): int64 (num_frames,).

    A random stretch of (num_frames - 1) x stride + 1 frames, or all there are, evenly
    sampled and cut to whole numbers: a short video gives denser, or repeated, frames.
    """
    length = min(num_available, (num_frames - 1) * stride + 1)
    start = int(rng.integers(num_available - length + 1))
    return np.linspace(start, start + length - 1, num_frames, dtype=np.int64)


def order(seed: int, epoch: int, size: int) -> np.ndarray:
    """The items of ``epoch`` in turn, all of them once: int64 (size,)."""
    return np.random.default_rng([seed, epoch]).permutation(size)


class SourceDataset(Dataset[Item]):
    """Map-style: ``item(epoch, index)``, or ``dataset[epoch, index]`` as a DataLoader
    asks; a bare index is epoch 0.
    """

    def __len__(self) -> int:
        raise NotImplementedError

    def item(self, epoch: int, index: int) -> Item:
        raise NotImplementedError

    def __getitem__(self, key: int | tuple[int, int]) -> Item:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.item(epoch, index)

    def note(self, broken: Sequence[tuple[str, str]]) -> None:
        """Counts what an item's ``broken`` says; with loader processes, the main one
        hears of it in no other way.
        """

    def report(self) -> list[tuple[str, str]]:
        """Every file that was found broken so far, by name, with the reason."""
        return []


class FileDataset(SourceDataset):
    """A broken file's place is taken by the next one that can be read, of at most 16,
    the same in every process.

    Raises AssetError where too many files are broken, naming some.
    """

    suffixes: tuple[str, ...]

    def __init__(self, source: ClipFolder | PictureFolder) -> None:
        self.listing = open_listing(
            Path(source.root), source.manifest and Path(source.manifest), self.suffixes
        )
        self.max_broken, self.seed = source.max_broken, source.seed
        self._broken: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.listing)

    def item(self, epoch: int, index: int) -> Item:
        broken: list[tuple[str, str]] = []
        for step in range(min(_SUBSTITUTES + 1, len(self))):
            place = (index + step) % len(self)
            entry = self.listing[place]
            reason = self._broken.get(entry.name) or (
                "there is no caption in UTF-8" if entry.caption is None else None
            )
            if reason is None:
                try:
                    made = self._read(
                        entry, np.random.default_rng([self.seed, epoch, index, step])
                    )
                    return {
                        **made,
                        "caption": entry.caption,
                        "index": torch.tensor(place),
                        "broken": broken,
                    }
                except AssetError as error:
                    reason = error.message.removeprefix(f"{entry.path.name}: ")
            broken.append((entry.name, reason))
            self.note(broken)
        raise AssetError(
            f"{len(broken)} files in a row cannot be read: {_told(broken)}",
            broken=broken,
        )

    def note(self, broken: Sequence[tuple[str, str]]) -> None:
        self._broken.update(broken)
        if len(self._broken) > self.max_broken * len(self):
            raise AssetError(
                f"{len(self._broken)} of {len(self)} files cannot be read, more than"
                f" the share of {self.max_broken:g}"
                f" that max_broken allows: {_told(self.report())}",
                broken=self.report(),
            )

    def report(self) -> list[tuple[str, str]]:
        return sorted(self._broken.items())

    def _read(self, entry: Entry, rng: np.random.Generator) -> Item:
        raise NotImplementedError


class ClipDataset(FileDataset):
    """The items of a ClipFolder."""

    suffixes = VIDEO_SUFFIXES

    def __init__(self, source: ClipFolder) -> None:
        super().__init__(source)
        self.source = source
        # Both spare time only: what an item is must not hang on what was read before.
        self._packets: dict[str, int] = {}
        self._frames_in: dict[str, int] = {}

    def _read(self, entry: Entry, rng: np.random.Generator) -> Item:
        source, state = self.source, rng.bit_generator.state
        name, path = entry.name, entry.path
        if name not in self._packets:
            self._packets[name] = count_frames(path)
        try:
            indices, pixels = self._frames(path, self._packets[name], rng)
        except AssetError:  # fewer than the packets say?
            if name not in self._frames_in:
                self._frames_in[name] = count_frames(path, exact=True)
            if self._frames_in[name] == self._packets[name]:
                raise
            rng.bit_generator.state = state
            indices, pixels = self._frames(path, self._frames_in[name], rng)
        values = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        if source.flip and rng.random() < 0.5:
            values = values.flip(-1)
        return {"pixels": values.contiguous(), "frames": torch.from_numpy(indices)}

    def _frames(
        self, path: Path, available: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        indices = clip_indices(
            available, self.source.num_frames, self.source.stride, rng
        )
        return indices, read_frames(
            path, indices.tolist(), self.source.width, self.source.height
        )


class PictureDataset(FileDataset):
    """The items of a PictureFolder."""

    suffixes = PICTURE_SUFFIXES

    def __init__(self, source: PictureFolder) -> None:
        super().__init__(source)
        self.source = source

    def _read(self, entry: Entry, rng: np.random.Generator) -> Item:
        try:
            picture = read_picture(entry.path.read_bytes(), entry.name)
        except OSError as error:
            raise AssetError(f"{entry.path.name}: {error.strerror}") from error
        except InvalidRequest as error:
            raise AssetError(f"{entry.path.name}: {error.details['got']}") from error
        values = (
            fit_picture(picture, self.source.width, self.source.height)[None] * 2 - 1
        )
        if self.source.flip and rng.random() < 0.5:
            values = values.flip(-1)
        return {"pixels": values, "frames": torch.zeros(1, dtype=torch.int64)}


class WorldDataset(SourceDataset):
    """The items of a World."""

    def __init__(self, source: World) -> None:
        self.source = source

    def __len__(self) -> int:
        return self.source.size

    def scene(self, index: int) -> tuple[world.Scene, world.Shot]:
        """What clip ``index`` shows, and how; nothing is drawn for it."""
        source = self.source
        return world.draw_scene(
            source.seed, source.split, index, source.shots, source.two_objects
        )[:2]

    def item(self, epoch: int, index: int) -> Item:
        source, (scene, shot) = self.source, self.scene(index)
        rng = world.generator(source.seed, source.split, index, 1 + epoch)
        caption = describe(scene, rng)
        told = {"caption": caption.text, "attributes": world.attributes(scene, caption)}
        made: Item = {
            **told,
            "strength": torch.tensor(shot.amount),
            "index": torch.tensor(index),
            "broken": [],
        }
        if not source.num_frames:
            return made
        clip = world.clip(
            source.seed, source.split, index, source.shots, source.two_objects
        )
        frames = clip_indices(world.NUM_FRAMES, source.num_frames, 1, rng)
        pixels = (
            torch.from_numpy(clip.frames[frames]).permute(0, 3, 1, 2).float() / 127.5
            - 1
        )
        made |= {
            "pixels": pixels.contiguous(),
            "mask": torch.from_numpy(clip.mask[frames]).float(),
            "frames": torch.from_numpy(frames),
        }
        if source.sketches:
            lines = torch.from_numpy(world.scribbles(clip.bodies)[frames])
            made["sketches"] = (lines[:, None] * 255).round().to(torch.uint8)
        return made


def open_source(source: Source) -> SourceDataset:
    """Raises ConfigurationError if there is nothing where ``source`` says."""
    if isinstance(source, World):
        return WorldDataset(source)
    return (
        ClipDataset(source)
        if isinstance(source, ClipFolder)
        else PictureDataset(source)
    )


def _told(broken: Sequence[tuple[str, str]]) -> str:
    shown = "; ".join(f"{name} ({reason})" for name, reason in broken[:5])
    return shown + (f"; and {len(broken) - 5} more" if len(broken) > 5 else "")
