"""Grids equal those of the published code; the suffix selects the format."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from decoding import decode_frames, frame_times
from PIL import Image, ImageSequence
from safetensors.torch import load_file

from animatediff.errors import EncodeError
from animatediff.video import OUTPUT_FORMATS
from animatediff.video.grid import save_videos_grid, video_grid

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "save_videos"
"""The published code's files, from ``videos`` (n_rows=4) and from ``videos * 2 - 1``.

The second was written with ``rescale``.
"""


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "video.safetensors")


def test_grid_equals_the_published_code(golden: dict[str, torch.Tensor]) -> None:
    grid = video_grid(golden["videos"], n_rows=4)
    assert grid.dtype == np.uint8
    assert (grid == golden["grid_uint8"].numpy()).all()


def test_rescaled_grid_differs_only_in_its_lines(
    golden: dict[str, torch.Tensor],
) -> None:
    plain = video_grid(golden["videos"], n_rows=4)
    rescaled = video_grid(golden["videos"] * 2 - 1, n_rows=4, rescale=True)
    lines = np.ones(plain.shape[1:3], bool)
    lines[2:50, 2:50] = lines[2:50, 52:100] = False
    assert (plain[:, lines] == 0).all()
    assert (rescaled[:, lines] == 127).all()
    assert (rescaled[:, ~lines] == plain[:, ~lines]).all()
    published = decode_frames(GOLDEN / "rescaled.gif")
    assert (published[:, lines] == 127).all()
    # The published file has only 256 colours for noise.
    assert np.abs(published.astype(int) - rescaled).mean() < 10


@pytest.mark.parametrize(
    ("rescale", "published"), [(False, "grid.gif"), (True, "rescaled.gif")]
)
def test_gif_equals_the_published_codes_in_layout_and_timing(
    golden: dict[str, torch.Tensor], rescale: bool, published: str, tmp_path: Path
) -> None:
    case = json.loads((GOLDEN / "case.json").read_text())
    videos = golden["videos"] * 2 - 1 if rescale else golden["videos"]
    save_videos_grid(
        videos, tmp_path / "new" / "folder" / published, rescale=rescale, n_rows=4
    )
    with (
        Image.open(tmp_path / "new" / "folder" / published) as ours,
        Image.open(GOLDEN / published) as reference,
    ):
        for image in (ours, reference):
            num_frames = sum(1 for _ in ImageSequence.Iterator(image))
            assert num_frames == case["n_frames"]
            assert list(image.size) == case["size"]
            assert image.info["loop"] == case["loop"]
    times = frame_times(tmp_path / "new" / "folder" / published)
    assert np.diff(times) == pytest.approx([case["duration_ms"] / 1000] * 4)
    grid = video_grid(videos, 4, rescale).astype(int)
    written = decode_frames(tmp_path / "new" / "folder" / published)
    error = np.abs(written - grid).mean()
    assert error < 2 * np.abs(decode_frames(GOLDEN / published) - grid).mean()


@pytest.mark.parametrize(
    ("fps", "milliseconds"), [(7, 140), (8, 130), (12, 80), (25, 40), (500, 10)]
)
def test_gif_has_one_delay_for_all_frames(
    fps: int, milliseconds: int, tmp_path: Path
) -> None:
    save_videos_grid(torch.rand(1, 3, 3, 8, 8), str(tmp_path / "a.gif"), fps=fps)
    assert np.diff(frame_times(tmp_path / "a.gif")) == pytest.approx(
        [milliseconds / 1000] * 3
    )


@pytest.mark.parametrize(
    "suffix", sorted({kind.suffix for kind in OUTPUT_FORMATS.values()} - {".gif"})
)
def test_suffix_selects_the_format(suffix: str, tmp_path: Path) -> None:
    videos = torch.linspace(0, 1, 2 * 3 * 2 * 16 * 16).reshape(2, 3, 2, 16, 16)
    save_videos_grid(videos, tmp_path / f"a{suffix}")
    decoded = decode_frames(tmp_path / f"a{suffix}")
    assert decoded.shape == (2, 20, 38, 3)
    assert np.abs(decoded.astype(int) - video_grid(videos)).mean() < 20


def test_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncodeError, match=r"unknown suffix '.avi'.*\.gif"):
        save_videos_grid(torch.rand(1, 3, 2, 8, 8), tmp_path / "a.avi")


def test_folder_that_cannot_be_created_is_an_encode_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EncodeError, match="folder could not be created") as caught:
        save_videos_grid(torch.rand(1, 3, 2, 8, 8), tmp_path / "file" / "a.gif")
    assert str(tmp_path) not in caught.value.message


def test_rows_are_filled_from_the_left() -> None:
    values = torch.tensor([51, 102, 153, 204, 255]) / 255
    grid = video_grid(values.view(5, 1, 1, 1, 1).expand(5, 3, 2, 4, 6), n_rows=3)
    assert grid.shape == (2, 2 * (4 + 2) + 2, 3 * (6 + 2) + 2, 3)
    assert [grid[1, 3, x, 0] for x in (3, 11, 19)] == [51, 102, 153]
    assert [grid[1, 9, x, 0] for x in (3, 11, 19)] == [204, 255, 0]


def test_one_clip_has_no_lines() -> None:
    videos = torch.rand(1, 3, 2, 8, 10)
    grid = video_grid(videos)
    assert grid.shape == (2, 8, 10, 3)
    assert (
        grid == (videos[0] * 255).permute(1, 2, 3, 0).numpy().astype(np.uint8)
    ).all()


@pytest.mark.parametrize("batch", [1, 2])
def test_grey_is_shown_as_grey(batch: int) -> None:
    grey = torch.rand(batch, 1, 2, 8, 8)
    assert (video_grid(grey) == video_grid(grey.repeat(1, 3, 1, 1, 1))).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_are_clamped_and_truncated(
    dtype: torch.dtype,
) -> None:
    values = torch.tensor([-0.5, 0.0, 0.25, 1.0, 1.5, 300.0], dtype=dtype).view(
        1, 1, 1, 1, 6
    )
    assert video_grid(values)[0, 0, :, 0].tolist() == [0, 0, 63, 255, 255, 255]
    assert video_grid(values, rescale=True)[0, 0, :, 0].tolist() == [
        63,
        127,
        159,
        255,
        255,
        255,
    ]


@pytest.mark.parametrize(
    "shape", [(3, 2, 8, 8), (1, 4, 2, 8, 8), (0, 3, 2, 8, 8), (1, 3, 0, 8, 8)]
)
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(EncodeError, match="a grid needs"):
        video_grid(torch.zeros(shape))


def test_grid_without_columns_is_refused() -> None:
    with pytest.raises(EncodeError, match="n_rows >= 1"):
        video_grid(torch.zeros(2, 3, 2, 8, 8), n_rows=0)
