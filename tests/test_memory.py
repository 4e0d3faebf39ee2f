from dataclasses import replace

import pytest

from animatediff.errors import InvalidRequest
from animatediff.memory import MemoryModel, Work

SD15 = MemoryModel(
    unet_width=320, vae_width=128, value_bytes=2, weight_bytes=2_966_751_182
)
CLIP = Work(16, 512, 512)


def test_lean_ways_need_less() -> None:
    assert SD15.needed_lean(CLIP) < SD15.needed(CLIP, 4)
    assert (
        SD15.needed(replace(CLIP, texts=1), 1)
        == SD15.needed_lean(replace(CLIP, texts=1))
        == SD15.needed_lean(CLIP)
    )


def test_decoder_decides_where_many_frames_are_decoded_at_once() -> None:
    short = Work(4, 512, 512)
    assert SD15.needed(short, 4) > SD15.needed(short, 1)
    assert SD15.needed(short, 64) == SD15.needed(short, 4)  # there are no more


def test_every_sparsectrl_branch_adds() -> None:
    sizes = [SD15.needed(replace(CLIP, controls=n), 4) for n in (0, 1, 2)]
    assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize("room", [4_500_000_000, 6_000_000_000, 20_000_000_000])
def test_what_is_suggested_fits_and_the_next_larger_does_not(room: int) -> None:
    work = Work(32, 2048, 1536, controls=1)
    size = SD15.largest_size(work, room)
    assert size is not None
    assert SD15.needed_lean(replace(work, width=size[0], height=size[1])) <= room
    assert (
        SD15.needed_lean(replace(work, width=size[0] + 16, height=size[1] + 16)) > room
    )
    small = replace(work, width=512, height=512)
    frames = SD15.most_frames(small, room)
    assert SD15.needed_lean(replace(small, num_frames=frames)) <= room
    assert SD15.needed_lean(replace(small, num_frames=frames + 1)) > room


def test_refusal_names_what_came_and_what_fits() -> None:
    SD15.check(CLIP, 8_000_000_000)
    with pytest.raises(InvalidRequest) as caught:
        SD15.check(Work(32, 2048, 2048), 8_000_000_000)
    details = caught.value.details
    assert details["field"] == "num_frames, width, height"
    assert details["got"] == "32 frames of 2048x2048, at least 36.66 GB"
    assert (
        details["allowed"]
        == "up to 784x784 at 32 frames: 8.00 GB are there, 2.97 GB of them for the"
        " weights"
    )
    with pytest.raises(
        InvalidRequest,
        match="up to 784x784 at 32 frames, up to 19 frames at 1024x1024: 8.00 GB",
    ):
        SD15.check(Work(32, 1024, 1024), 8_000_000_000)


def test_no_room_for_the_weights_themselves() -> None:
    with pytest.raises(InvalidRequest, match="nothing of this kind"):
        SD15.check(CLIP, 1_000_000_000)
