import numpy as np
import pytest
import torch
from PIL import Image

from animatediff.controls.pictures import (
    fit_picture,
    normalize_picture,
    place_images,
)
from animatediff.errors import InvalidRequest


def test_the_crop_is_centred_and_of_the_frames_aspect() -> None:
    picture = Image.new("RGB", (640, 360), "black")
    picture.paste(
        (255, 255, 255), (50, 0, 590, 360)
    )  # what the published script keeps of it for 384x256
    assert fit_picture(picture, 384, 256).shape == (3, 256, 384)
    assert fit_picture(picture, 384, 256).min() == 1
    picture.paste((0, 0, 0), (50, 0, 51, 360))
    assert fit_picture(picture, 384, 256).min() < 1


def test_a_tall_picture_loses_its_top_and_bottom() -> None:
    rows = np.zeros((30, 10, 3), dtype=np.uint8)
    rows[10:20] = 255
    assert fit_picture(Image.fromarray(rows), 8, 8).min() == 1


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_other_kinds_of_picture_are_read_as_rgb(mode: str) -> None:
    assert fit_picture(Image.new(mode, (9, 7)), 16, 8).shape == (3, 8, 16)


def test_extreme_aspects_keep_a_pixel() -> None:
    assert fit_picture(Image.new("RGB", (1, 2000)), 512, 64).shape == (3, 64, 512)
    assert fit_picture(Image.new("RGB", (2000, 1)), 64, 512).shape == (3, 512, 64)


def test_normalised_pictures_are_stretched_and_uniform_ones_stay_finite() -> None:
    stretched = normalize_picture(torch.tensor([0.25, 0.5]).expand(3, 1, 2))
    assert (stretched.min(), stretched.max()) == (0, 1)
    for value in (0.0, 0.5, 1.0):
        assert torch.equal(
            normalize_picture(torch.full((3, 4, 4), value)), torch.zeros(3, 4, 4)
        )


def test_images_stand_at_their_frames() -> None:
    images = torch.arange(1.0, 4.0).reshape(1, 1, 3, 1, 1).expand(1, 2, 3, 4, 4)
    placed = place_images(images, [0, 4, -1], 8)
    assert placed.shape == (1, 3, 8, 4, 4)
    assert placed[0, 0, :, 0, 0].tolist() == [1, 0, 0, 0, 2, 0, 0, 3]
    assert placed[0, 2, :, 0, 0].tolist() == [1, 0, 0, 0, 1, 0, 0, 1]


@pytest.mark.parametrize("indices", [[], [0], [0, 8], [0, -9], [7, -1], [2, 2]])
def test_indices_that_cannot_be(indices: list[int]) -> None:
    with pytest.raises(InvalidRequest, match=r"controls\.frame_indices"):
        place_images(torch.zeros(1, 3, 2, 8, 8), indices, 8)
