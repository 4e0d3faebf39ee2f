"""The drawn world as training data: its items, and the values that it accepts."""

from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError

from animatediff.errors import ConfigurationError
from lab.shapeworld import world
from lab.shapeworld.scene import COLOURS
from lab.shapeworld.source import ShotConfig, World


def test_world_item() -> None:
    data = World(size=50, seed=3).open(16)
    item = data.item(1, 7)
    assert item["pixels"].shape == (16, 3, 64, 64)
    assert item["mask"].shape == (16, 8, 8)
    assert item["pixels"].min() >= -1
    drawn = world.clip(3, "train", 7)
    assert torch.equal(
        item["pixels"].permute(0, 2, 3, 1),
        torch.from_numpy(drawn.frames).float() / 127.5 - 1,
    )
    assert drawn.scene.colour in item["caption"]
    assert item["attributes"]["colour"] == list(COLOURS).index(drawn.scene.colour)
    assert torch.equal(item["pixels"], data.item(2, 7)["pixels"])
    assert len({data.item(epoch, 7)["caption"] for epoch in range(8)}) > 1
    with pytest.raises(IndexError):
        data[0, 50]


def test_world_words_alone_are_those_of_the_drawn_items() -> None:
    words, whole = World().open(0), World().open(16)
    for index in range(3):
        item, drawn = words.item(4, index), whole.item(4, index)
        assert "pixels" not in item
        assert item["caption"] == drawn["caption"]
        assert item["attributes"] == drawn["attributes"]


def test_world_sketches() -> None:
    item = World().open(4, sketches=True).item(0, 0)
    assert (item["sketches"].shape, item["sketches"].dtype) == (
        (4, 1, 64, 64),
        torch.uint8,
    )
    assert item["sketches"].max() > 0.9 * 255
    assert item["frames"].diff().tolist() == [1, 1, 1]
    assert "sketches" not in World().open(16).item(0, 0)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: World(size=0), "size"),
        (lambda: World(split="test"), "split"),  # pyright: ignore[reportArgumentType]
        (lambda: World(shots=()), "shots"),
        (lambda: World(two_objects=1.5), "two_objects"),
        (lambda: World(num_frames=17), "num_frames"),
        (lambda: World(width=128), "width"),
        (lambda: World(seed=-1), "seed"),
    ],
)
def test_values_out_of_range(make: Callable[[], object], field: str) -> None:
    with pytest.raises(ValidationError, match=rf"\n{field}\n"):
        make()


def test_unknown_shots_are_rejected_before_training() -> None:
    with pytest.raises(ConfigurationError, match="^camera: got 'dolly'"):
        World(shots=(ShotConfig(camera="dolly"),)).open(16)
