"""The drawn world as training data: ``data.source: lab.shapeworld.source:World``."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from animatediff.training.section import Count, Section, Share
from animatediff.training.source import DataSource, Item, SourceDataset, clip_indices

from . import world
from .captions import describe
from .scene import NUM_FRAMES, SIZE, Scene, Shot

_FORMER_KEYS = {
    "root": None,
    "manifest": None,
    "stride": 1,
    "flip": False,
    "max_broken": 0.1,
}
"""Fixed values that the fingerprints of the published files contain."""


class ShotConfig(Section):
    """A way to show clips, see ``scene.Shot``."""

    camera: str | None = None
    style: str = "plain"
    watermark: bool = False
    amount: float = Field(default=1.0, exclude_if=lambda amount: amount == 1)

    def shot(self) -> Shot:
        """The shot. Raises ConfigurationError for an unknown name."""
        return Shot(self.camera, self.style, self.watermark, self.amount)


class World(DataSource):
    """``size`` clips of 64x64 pixels.

    A clip looks the same in every epoch; its caption, and which of its 16 frames are
    used, change.
    """

    has_captions_alone: ClassVar[bool] = True

    kind: str = "world"
    num_frames: Annotated[int, Field(ge=1, le=NUM_FRAMES)] = NUM_FRAMES
    width: Annotated[int, Field(ge=SIZE, le=SIZE)] = SIZE
    height: Annotated[int, Field(ge=SIZE, le=SIZE)] = SIZE
    size: Count = 4096
    """The number of different clips."""
    split: Literal["train", "validation", "held_out"] = "train"
    shots: Annotated[tuple[ShotConfig, ...], Field(min_length=1)] = (ShotConfig(),)
    """Each clip is shown in one of these; one that is listed twice is used twice as
    often.
    """
    two_objects: Share = 0.15
    """The share of clips with a second object."""

    def open(self, num_frames: int, *, sketches: bool = False) -> "WorldDataset":
        """See ``DataSource.open``."""
        return WorldDataset(self, num_frames, sketches=sketches)

    def deciding(self) -> dict[str, Any]:
        """See ``DataSource.deciding``."""
        return {**_FORMER_KEYS, **super().deciding()}


class WorldDataset(SourceDataset):
    """The items of a World. With 0 frames, an item is a caption and nothing is drawn.

    ``sketches``: items contain the outlines of the frames.
    """

    def __init__(
        self, source: World, num_frames: int, *, sketches: bool = False
    ) -> None:
        self.source, self.num_frames, self.sketches = source, num_frames, sketches
        self.shots = tuple(each.shot() for each in source.shots)

    @property
    def attributes(self) -> Mapping[str, int]:
        """See ``SourceDataset.attributes``."""
        return {name: len(values) for name, values in world.ATTRIBUTES.items()}

    def __len__(self) -> int:
        return self.source.size

    def scene(self, index: int) -> tuple[Scene, Shot]:
        """Return the scene and the shot of clip ``index``. Draws no pixels."""
        source = self.source
        scene, shot, _ = world.draw_scene(
            source.seed, source.split, index, self.shots, source.two_objects
        )
        return scene, shot

    def item(self, epoch: int, index: int) -> Item:
        """See ``SourceDataset.item``."""
        scene, shot = self.scene(index)
        rng = world.generator(self.source.seed, self.source.split, index, 1 + epoch)
        caption = describe(scene, rng)
        item: Item = {
            "caption": caption.text,
            "attributes": world.attributes(scene, caption),
            "strength": torch.tensor(shot.amount),
            "index": torch.tensor(index),
            "broken": [],
        }
        if self.num_frames:
            frames = clip_indices(NUM_FRAMES, self.num_frames, 1, rng)
            item |= self._drawn(index, torch.from_numpy(frames))
        return item

    def _drawn(self, index: int, frames: Tensor) -> Item:
        source = self.source
        clip = world.clip(
            source.seed, source.split, index, self.shots, source.two_objects
        )
        colours = torch.from_numpy(clip.frames)[frames].permute(0, 3, 1, 2)
        item: Item = {
            "pixels": (colours.float() / 127.5 - 1).contiguous(),
            "mask": torch.from_numpy(clip.mask)[frames].float(),
            "frames": frames,
        }
        if self.sketches:
            lines = torch.from_numpy(world.scribbles(clip.bodies))[frames, None]
            item["sketches"] = (lines * 255).round().to(torch.uint8)
        return item
