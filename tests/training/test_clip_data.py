"""What training sees: published sampling rules, broken files counted, items that depend
on their number alone.
"""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch.utils.data import DataLoader

from animatediff.errors import AssetError, ConfigurationError
from animatediff.training.data import open_source
from animatediff.training.file_data import ClipDataset, ClipFolder, PictureFolder
from animatediff.training.source import clip_indices, order
from animatediff.video import Video, write_video
from lab.shapeworld.source import World

pytestmark = pytest.mark.slow


class FirstStart:
    """A generator that always draws the first, or the last, allowed number."""

    def __init__(self, last: bool = False) -> None:
        self.last = last

    def integers(self, high: int) -> int:
        return high - 1 if self.last else 0


def write_ramp(path: Path, num_frames: int, captioned: bool = True) -> None:
    """Frame i is gray of the value 4 i; the left half is black."""
    frames = np.zeros((num_frames, 16, 32, 3), np.uint8)
    frames[:, :, 16:] = np.arange(num_frames)[:, None, None, None] * 4
    write_video(Video(frames, 8), path, format="mp4", metadata={})
    if captioned:
        path.with_suffix(".txt").write_text(f"clip {path.stem}")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for name, num_frames in (("a", 40), ("b", 20), ("c", 5)):
        write_ramp(folder / f"{name}.mp4", num_frames)
    return folder


def source(root: Path, **changes) -> ClipFolder:
    return ClipFolder(
        **{
            "root": root,
            "num_frames": 4,
            "stride": 3,
            "height": 16,
            "width": 32,
            "flip": False,
            **changes,
        }
    )


def opened(folder: ClipFolder) -> ClipDataset:
    return folder.open(folder.num_frames)


@pytest.mark.parametrize(
    ("available", "num_frames", "stride", "first", "last"),
    [
        (100, 4, 3, [0, 3, 6, 9], [90, 93, 96, 99]),
        (10, 4, 3, [0, 3, 6, 9], [0, 3, 6, 9]),
        (8, 4, 3, [0, 2, 4, 7], [0, 2, 4, 7]),  # linspace 0, 2.33, 4.67, 7, cut
        (3, 4, 3, [0, 0, 1, 2], [0, 0, 1, 2]),  # 0, .67, 1.33, 2
        (1, 4, 3, [0, 0, 0, 0], [0, 0, 0, 0]),
        (61, 16, 4, list(range(0, 61, 4)), list(range(0, 61, 4))),
        (9, 1, 4, [0], [8]),
    ],
)
def test_published_sampling_rule(
    available: int, num_frames: int, stride: int, first: list, last: list
) -> None:
    rng: Any
    for rng, expected in ((FirstStart(), first), (FirstStart(last=True), last)):
        indices = clip_indices(available, num_frames, stride, rng)
        assert indices.tolist() == expected


def test_every_start_is_drawn() -> None:
    rng = np.random.default_rng(0)
    assert {int(clip_indices(12, 4, 3, rng)[0]) for _ in range(100)} == {0, 1, 2}


def test_clip_item(clips: Path) -> None:
    data = opened(source(clips))
    item = data.item(0, 0)
    assert item["pixels"].shape == (4, 3, 16, 32)
    assert item["pixels"].dtype == torch.float32
    assert -1 <= item["pixels"].min() < -0.97
    assert item["caption"] == "clip a"
    assert item["frames"].diff().tolist() == [3, 3, 3]
    seen = (item["pixels"][:, :, 4:12, 20:28].mean(dim=(1, 2, 3)) + 1) * 127.5 / 4
    assert torch.allclose(seen, item["frames"].float(), atol=0.6)


def test_a_look_at_a_source_shows_what_training_reads(clips: Path) -> None:
    folder = source(clips, num_frames=3)
    look, data = open_source(folder), opened(folder)
    assert len(look) == len(data) == 3
    assert look[1]["caption"] == data[1]["caption"] == "clip b"
    assert torch.equal(look[1]["pixels"], data[1]["pixels"])


def test_items_depend_on_epoch_and_index_alone(clips: Path) -> None:
    one, other = opened(source(clips, seed=5)), opened(source(clips, seed=5))
    later = [other.item(epoch, index) for epoch in (2, 0, 1) for index in (2, 1, 0)]
    for item in later[3:6]:
        again = one.item(0, int(item["index"]))
        assert torch.equal(again["pixels"], item["pixels"])
        assert torch.equal(again["frames"], item["frames"])
    assert len({tuple(one.item(epoch, 0)["frames"].tolist()) for epoch in range(6)}) > 1
    assert torch.equal(one[4, 1]["pixels"], one.item(4, 1)["pixels"])


def test_flip_is_one_decision_a_clip(clips: Path) -> None:
    data = opened(source(clips, flip=True))
    sides = set()
    for epoch in range(12):
        pixels = data.item(epoch, 0)["pixels"]
        black = {bool(frame[:, :, :12].max() < -0.9) for frame in pixels[1:]}
        assert len(black) == 1
        sides |= black
    assert sides == {True, False}


def test_single_frames(clips: Path) -> None:
    data = opened(source(clips, num_frames=1))
    frames = {int(data.item(epoch, 2)["frames"]) for epoch in range(30)}
    assert frames == {0, 1, 2, 3, 4}
    assert data.item(0, 2)["pixels"].shape == (1, 3, 16, 32)


def test_broken_files_are_counted_and_replaced_by_the_next(
    clips: Path, tmp_path: Path
) -> None:
    lines = [
        f"{clips}/a.mp4,one",
        f"{clips}/gone.mp4,two",
        "junk.mp4,three",
        f"{clips}/b.mp4,four",
    ]
    (tmp_path / "junk.mp4").write_bytes(b"junk" * 99)
    (tmp_path / "clips.csv").write_text("\n".join(["path,caption", *lines]))
    config = source(tmp_path, manifest=tmp_path / "clips.csv", max_broken=0.5)
    data = opened(config)
    assert data.report() == []
    item = data.item(0, 1)
    assert (item["caption"], int(item["index"])) == ("four", 3)
    names = [f"{clips}/gone.mp4", "junk.mp4"]
    assert [name for name, _ in item["broken"]] == names
    assert dict(data.report())[names[0]] == "the file does not exist"
    assert "Invalid data" in dict(data.report())["junk.mp4"]
    again = data.item(0, 1)  # known by now, and the same all the same
    assert torch.equal(again["pixels"], item["pixels"])
    assert again["broken"] == item["broken"]
    fresh = opened(config)
    fresh.note(item["broken"])  # as from a loader's process
    assert fresh.report() == data.report()


def test_too_many_broken_files_are_an_error(clips: Path, tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.mp4").write_bytes((clips / f"{name}.mp4").read_bytes())
    (tmp_path / "a.txt").write_text("one")
    data = opened(source(tmp_path, max_broken=0.4))
    assert data.item(0, 0)["caption"] == "one"
    with pytest.raises(
        AssetError,
        match=r"2 of 3 files cannot be read.*0\.4.*b\.mp4 \(there is no caption",
    ):
        data.item(0, 1)
    data = opened(source(tmp_path, max_broken=0.99))
    (tmp_path / "a.txt").unlink()
    with pytest.raises(AssetError, match="3 of 3"):
        data.item(0, 0)


def test_file_with_fewer_frames_than_it_says(tmp_path: Path) -> None:
    """Cut in the middle, in a container that still tells of its packets: the frames
    that are there are used.
    """
    write_video(
        Video(np.random.default_rng(0).integers(0, 255, (40, 16, 32, 3), np.uint8), 8),
        tmp_path / "whole.mp4",
        format="mp4",
        metadata={},
    )
    content = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) * 2 // 3])
    (tmp_path / "cut.txt").write_text("cut")
    (tmp_path / "whole.txt").write_text("whole")
    config = source(tmp_path, stride=40)
    data = opened(config)
    assert [data.item(0, index)["caption"] for index in range(2)] == ["cut", "whole"]
    frames = data.item(0, 0)["frames"]
    assert 5 < frames[-1] < 39
    assert data.report() == []
    for epoch in (1, 0):  # what was read before does not matter
        assert torch.equal(
            opened(config).item(epoch, 0)["frames"], data.item(epoch, 0)["frames"]
        )


def test_pictures(tmp_path: Path) -> None:
    for name, size in (
        ("wide.png", (64, 32)),
        ("high.jpg", (32, 64)),
        ("small.webp", (8, 8)),
    ):
        Image.new("RGB", size, (255, 0, 0)).save(tmp_path / name)
        (tmp_path / name).with_suffix(".txt").write_text(name)
    (tmp_path / "junk.png").write_bytes(b"junk")
    (tmp_path / "junk.txt").write_text("junk")
    data = PictureFolder(
        root=tmp_path, height=32, width=32, max_broken=0.3, flip=False
    ).open(1)
    items = [data.item(0, index) for index in range(len(data))]
    assert [item["caption"] for item in items] == [
        "high.jpg",
        "small.webp",
        "small.webp",
        "wide.png",
    ]
    assert all(item["pixels"].shape == (1, 3, 32, 32) for item in items)
    assert items[3]["pixels"][0, :, 16, 16].tolist() == [1, -1, -1]
    assert [name for name, _ in data.report()] == ["junk.png"]


def test_order_is_another_shuffle_in_every_epoch() -> None:
    assert sorted(order(7, 2, 11)) == list(range(11))
    assert not np.array_equal(order(7, 2, 11), order(7, 3, 11))


def test_loader_processes_give_the_same_items() -> None:
    data = World(size=8).open(2)
    keys = [(1, int(index)) for index in order(0, 1, 8)[:4]]
    # A loader's sampler may name items by pairs.
    loaded = list(DataLoader(data, batch_size=None, sampler=keys, num_workers=1))  # pyright: ignore
    for key, item in zip(keys, loaded, strict=True):
        assert torch.equal(item["pixels"], data.item(*key)["pixels"])
    assert len(pickle.loads(pickle.dumps(data))) == 8


def test_folder_that_does_not_exist() -> None:
    with pytest.raises(ConfigurationError, match="^root: "):
        opened(ClipFolder(root=Path("nowhere")))


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: ClipFolder(root=Path(), num_frames=0), "num_frames"),
        (lambda: ClipFolder(root=Path(), stride=0), "stride"),
        (lambda: ClipFolder(root=Path(), height=100), "height"),
        (lambda: ClipFolder(root=Path(), max_broken=1.0), "max_broken"),
        (lambda: PictureFolder(root=Path(), width=0), "width"),
        (lambda: PictureFolder(root=Path(), seed=-1), "seed"),
    ],
)
def test_values_out_of_range(make: Callable[[], object], field: str) -> None:
    with pytest.raises(ValidationError, match=rf"\n{field}\n"):
        make()
