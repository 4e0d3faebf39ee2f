"""Who reads what when: nothing depends on the number of processes, of turns, or on
where a run began.
"""

from pathlib import Path

import torch

from animatediff.training.ema import MovingAverage
from animatediff.training.feeding import (
    GlobalBatch,
    LatentCache,
    Reader,
    Slot,
    generator,
    sketched,
    slots,
    stratified_place,
)
from lab.shapeworld.source import World


def read(
    batch: GlobalBatch, process: int, steps: range, size: int = 10
) -> list[list[Slot]]:
    return list(slots(batch, size, 3, process, steps))


def test_processes_and_turns_share_a_batch_in_order() -> None:
    whole = [slot for turn in read(GlobalBatch(8), 0, range(3)) for slot in turn]
    assert [slot.position for slot in whole] == [*range(8)] * 3
    for shared in (GlobalBatch(2, 4), GlobalBatch(4, 1, 2), GlobalBatch(1, 2, 4)):
        turns = [
            turn
            for process in range(shared.num_processes)
            for turn in read(shared, process, range(3))
        ]
        parts = [slot for turn in turns for slot in turn]
        assert sorted(parts, key=lambda slot: (slot.step, slot.position)) == whole


def test_every_epoch_is_every_clip_once() -> None:
    seen = [slot for turn in read(GlobalBatch(4), 0, range(10)) for slot in turn]
    for epoch in range(4):
        assert sorted(slot.index for slot in seen if slot.epoch == epoch) == list(
            range(10)
        )
    assert [slot.index for slot in seen[:10]] != [slot.index for slot in seen[10:20]]


def test_a_later_start_is_the_same_further_on() -> None:
    assert read(GlobalBatch(4), 0, range(7)) == read(
        GlobalBatch(4), 0, range(3)
    ) + read(GlobalBatch(4), 0, range(3, 7))


def test_chance_is_of_the_place_alone() -> None:
    places = ((0, 1, 2), (0, 2, 1), (1, 1, 2))
    assert (
        len({float(torch.rand(1, generator=generator(*numbers))) for numbers in places})
        == 3
    )
    same = [
        torch.rand(3, generator=source)
        for source in (Slot(1, 2, 0, 0).generator(5), generator(5, 1, 2))
    ]
    assert torch.equal(*same)


def test_stratified_places_are_one_to_a_part() -> None:
    places = [
        stratified_place(0, Slot(4, position, 0, 0), 8, 0.5) for position in range(8)
    ]
    assert sorted(places) == [(part + 0.5) / 8 for part in range(8)]
    assert places != sorted(places)


def test_kept_latents_and_new_words(tmp_path: Path) -> None:
    clips, words = (
        World(size=3).open(2),
        World(size=3).open(0),
    )
    cache = LatentCache(tmp_path, "key", variants=1)
    reader = Reader(clips, cache, words)
    item = reader[Slot(0, 0, 5, 1)][1]
    assert torch.equal(item["pixels"], clips.item(0, 1)["pixels"])
    kept = {"mean": torch.ones(2, 4, 8, 8), "mask": item["mask"]}
    cache.write(5, 1, item["caption"], kept)
    captions = set()
    for epoch in range(8):
        again = reader[Slot(0, 0, epoch, 1)][1]
        assert torch.equal(again["mean"], kept["mean"])
        assert "pixels" not in again
        assert again["caption"] == words.item(epoch, 1)["caption"]
        captions.add(again["caption"])
    assert len(captions) > 1
    assert cache.read(0, 2) is None
    assert LatentCache(tmp_path, "other", 1).read(5, 1) is None
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def test_cuts_take_turns(tmp_path: Path) -> None:
    cache = LatentCache(tmp_path, "key", variants=2)
    for epoch in (0, 1):
        cache.write(epoch, 0, f"cut {epoch}", {"mean": torch.full((1,), float(epoch))})
    assert [(cache.read(epoch, 0) or {})["caption"] for epoch in range(4)] == [
        "cut 0",
        "cut 1",
        "cut 0",
        "cut 1",
    ]


def test_edges_of_a_frame() -> None:
    frames = torch.full((1, 3, 32, 32), -1.0)
    frames[..., 8:24, 8:24] = 1
    sketch = sketched(frames)
    assert sketch.dtype == torch.uint8
    assert sketch[0, 0, 8, 16] == 255
    assert sketch[0, 0, 16, 16] == sketch[0, 0, 2, 2] == 0
    assert sketched(torch.zeros(1, 3, 32, 32)).max() == 0


def test_the_moving_average() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    ema = MovingAverage({"weight": parameter}, 0.9)
    value = torch.tensor([1.0, 3.0])
    expected = torch.zeros(2)
    for n in range(1, 200):
        with torch.no_grad():
            parameter.copy_(value)
        ema.update()
        expected = expected + (1 - min(0.9, (1 + n) / (10 + n))) * (value - expected)
    assert torch.allclose(ema.average["weight"], expected)
    with ema.in_place():
        assert torch.equal(parameter, ema.average["weight"])
    assert torch.equal(parameter, value)
