from dataclasses import replace

import pytest

from animatediff.errors import InvalidRequest
from animatediff.families import SD15
from animatediff.memory import MemoryModel, Work

MODEL = MemoryModel(
    family=SD15,
    unet_width=320,
    vae_width=128,
    value_bytes=2,
    weight_bytes=2_966_751_182,
)
CLIP = Work(16, 512, 512)


def test_lean_ways_need_less() -> None:
    assert MODEL.needed_lean(CLIP) < MODEL.needed(CLIP, 4)
    assert (
        MODEL.needed(replace(CLIP, texts=1), 1)
        == MODEL.needed_lean(replace(CLIP, texts=1))
        == MODEL.needed_lean(CLIP)
    )


def test_decoder_decides_where_many_frames_are_decoded_at_once() -> None:
    short = Work(4, 512, 512)
    assert MODEL.needed(short, 4) > MODEL.needed(short, 1)
    assert MODEL.needed(short, 64) == MODEL.needed(short, 4)  # there are no more


def test_every_sparsectrl_branch_adds() -> None:
    sizes = [MODEL.needed(replace(CLIP, controls=n), 4) for n in (0, 1, 2)]
    assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize("room", [4_500_000_000, 6_000_000_000, 20_000_000_000])
def test_what_is_suggested_fits_and_the_next_larger_does_not(room: int) -> None:
    work = Work(32, 2048, 1536, controls=1)
    size = MODEL.largest_size(work, room)
    assert size is not None
    assert MODEL.needed_lean(replace(work, width=size[0], height=size[1])) <= room
    assert (
        MODEL.needed_lean(replace(work, width=size[0] + 16, height=size[1] + 16)) > room
    )
    small = replace(work, width=512, height=512)
    frames = MODEL.most_frames(small, room)
    assert MODEL.needed_lean(replace(small, num_frames=frames)) <= room
    assert MODEL.needed_lean(replace(small, num_frames=frames + 1)) > room


def test_refusal_names_what_came_and_what_fits() -> None:
    MODEL.check(CLIP, 8_000_000_000)
    with pytest.raises(InvalidRequest) as caught:
        MODEL.check(Work(32, 2048, 2048), 8_000_000_000)
    details = caught.value.details
    assert details["field"] == "num_frames, width, height"
    assert details["got"] == "32 frames of 2048x2048, which need at least 27.39 GB"
    assert (
        details["allowed"]
        == "up to 928x928 at 32 frames: the device has 8.00 GB, of which the weights"
        " take 2.97 GB"
    )
    with pytest.raises(
        InvalidRequest,
        match="up to 928x928 at 32 frames, up to 26 frames at 1024x1024:"
        " the device has 8.00 GB",
    ):
        MODEL.check(Work(32, 1024, 1024), 8_000_000_000)


@pytest.mark.parametrize(
    ("room", "work", "chunk"),
    [
        (23_000_000_000, CLIP, 16),
        (7_500_000_000, CLIP, 7),
        (4_600_000_000, CLIP, 1),
        (4_400_000_000, CLIP, None),  # guidance fits only lean ways
        (100_000_000_000, Work(64, 512, 512), 16),
        (100_000_000_000, Work(16, 1024, 1024), 8),
        (100_000_000_000, Work(3, 512, 512), 3),
        (100_000_000_000, Work(4, 4096, 2048), 1),
    ],
)
def test_as_many_frames_are_decoded_at_once_as_fit(
    room: int, work: Work, chunk: int | None
) -> None:
    assert MODEL.decode_chunk(work, room) == chunk
    if chunk is not None:
        assert MODEL.needed(work, chunk) <= room
        assert chunk * work.width * work.height * 2 * MODEL.vae_width <= 2**31


def test_a_decoder_in_float32_takes_a_copy_and_one_frame() -> None:
    copied = replace(MODEL, unet_width=0, float32_decoder=198_000_000)
    usual = replace(MODEL, unet_width=0)
    two_frames = usual.needed(CLIP, 2) + 198_000_000
    assert copied.needed(CLIP, 16) == copied.needed_lean(CLIP) == two_frames


def test_no_room_for_the_weights_themselves() -> None:
    with pytest.raises(InvalidRequest, match="no job of this kind"):
        MODEL.check(CLIP, 1_000_000_000)


def test_windows_bound_the_memory_of_a_long_clip() -> None:
    long = Work(128, 512, 512, window=16)
    assert MODEL.needed(long, 4) == MODEL.needed(CLIP, 4)
    assert MODEL.needed(Work(8, 512, 512, window=16), 4) == MODEL.needed(
        Work(8, 512, 512), 4
    )
    steered = [replace(work, controls=1) for work in (CLIP, long)]
    without, with_windows = (MODEL.needed(work, 4) for work in steered)
    positions, values = 64 * 64 * 320 * 2, SD15.memory.condition
    assert with_windows - without == pytest.approx(112 * positions * values, rel=1e-6)
