"""Batched crops against torchvision's resized_crop on float images."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from attndistill.data.resampling import crop_and_resize
from attndistill.data.views import Boxes

HEIGHT, WIDTH = 40, 56


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)


def boxes_of(rows: list[tuple[int, int, int, int, bool]]) -> Boxes:
    top, left, height, width, flip = zip(*rows, strict=True)
    return Boxes(*(np.array(column, np.int64) for column in (top, left, height, width)), np.array(flip))


ROWS = [
    (0, 0, 40, 56, False),  # the whole image
    (0, 0, 40, 56, True),
    (3, 7, 25, 31, False),
    (3, 7, 25, 31, True),
    (39, 55, 1, 1, False),  # one pixel, in the corner
    (30, 0, 10, 56, True),  # at the border, wide: the filter must not see beyond the crop
    (8, 8, 16, 16, False),
    (5, 40, 35, 9, True),
]


@pytest.mark.parametrize("size", [8, 16, 33, 64])
def test_crops_equal_torchvisions(size: int) -> None:
    images, boxes = noise(len(ROWS)), boxes_of(ROWS)
    ours = crop_and_resize(images, boxes, size)
    for row, (top, left, height, width, flip) in enumerate(ROWS):
        image = torch.from_numpy(images[row]).permute(2, 0, 1).float() / 255
        wanted = reference.resized_crop(
            image, top, left, height, width, [size, size], InterpolationMode.BICUBIC, antialias=True
        ).clamp(0, 1)
        wanted = reference.horizontal_flip(wanted) if flip else wanted
        torch.testing.assert_close(ours[row], wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [16, 64])
def test_a_crop_is_the_same_bits_in_any_batch(size: int) -> None:
    images, boxes = noise(len(ROWS)), boxes_of(ROWS)
    together = crop_and_resize(images, boxes, size)
    for row in range(len(ROWS)):
        alone = crop_and_resize(images[row : row + 1], boxes_of(ROWS[row : row + 1]), size)
        assert torch.equal(alone[0], together[row])


def test_overshoot_is_clamped_as_in_an_8_bit_image() -> None:
    step = np.zeros((1, 8, 8, 3), np.uint8)
    step[:, :, 4:] = 255
    ours = crop_and_resize(step, boxes_of([(0, 0, 8, 8, False)]), 32)
    image = torch.from_numpy(step).permute(0, 3, 1, 2).float() / 255
    free = reference.resize(image, [32, 32], InterpolationMode.BICUBIC, antialias=True)
    assert free.min() < -0.01
    assert free.max() > 1.01
    assert (ours[free < -1e-3] == 0).all()
    assert (ours[free > 1 + 1e-3] == 1).all()
