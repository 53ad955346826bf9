"""Views: pure functions of (seed, epoch, index), with exactly torchvision's distribution."""

from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import v2

from attndistill.data.views import Boxes, ViewRecipe, evaluation_boxes

SAMPLES = 3000
FIELDS = ("top", "left", "height", "width", "flip")


def drawn(recipe: ViewRecipe, indices: np.ndarray, height: int, width: int, epoch: int = 0) -> Boxes:
    size = np.ones(len(indices), np.int64)
    return recipe.boxes(epoch, indices, height * size, width * size)


def test_a_box_depends_on_its_image_and_not_on_the_batch(recipe: ViewRecipe) -> None:
    indices = np.arange(300, dtype=np.int64)
    heights, widths = 20 + indices % 37, 25 + indices % 11
    together = recipe.boxes(5, indices, heights, widths)
    order = np.random.default_rng(1).permutation(300)
    shuffled = recipe.boxes(5, indices[order], heights[order], widths[order])
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(shuffled, field), getattr(together, field)[order])
        alone = recipe.boxes(5, indices[77:78], heights[77:78], widths[77:78])
        assert getattr(alone, field)[0] == getattr(together, field)[77]


def test_epochs_and_seeds_give_other_boxes(recipe: ViewRecipe) -> None:
    indices = np.arange(500, dtype=np.int64)
    first = drawn(recipe, indices, 64, 64)
    for other in (
        drawn(recipe, indices, 64, 64, epoch=1),
        drawn(ViewRecipe(**vars(recipe) | {"seed": 4}), indices, 64, 64),
    ):
        assert (first.width == other.width).mean() < 0.2
        assert 0.4 < (first.flip == other.flip).mean() < 0.6


@cache
def torchvision_boxes(recipe: ViewRecipe, height: int, width: int) -> np.ndarray:
    torch.manual_seed(0)
    crop = v2.RandomResizedCrop(16, scale=recipe.scale, ratio=recipe.ratio)
    image = [torch.empty(3, height, width)]
    rows = [crop.make_params(image) for _ in range(SAMPLES)]
    return np.array([[row[field] for field in FIELDS[:4]] for row in rows])


# Square; wide, where some tries fail and are drawn again; extreme, where most fall back to the central crop.
@pytest.mark.parametrize(("height", "width"), [(96, 96), (64, 200), (40, 400)])
def test_boxes_are_distributed_as_torchvisions(recipe: ViewRecipe, height: int, width: int) -> None:
    ours = drawn(recipe, np.arange(SAMPLES, dtype=np.int64), height, width)
    theirs = torchvision_boxes(recipe, height, width)
    mine = np.stack([getattr(ours, field) for field in FIELDS[:4]], axis=1)
    for statistic in (
        lambda box: box[:, 2] * box[:, 3] / (height * width),
        lambda box: np.log(box[:, 3] / box[:, 2]),
        lambda box: box[:, 0],
        lambda box: box[:, 1],
        lambda box: (box[:, 0] + box[:, 2] / 2) * (box[:, 1] + box[:, 3] / 2),
    ):
        assert stats.ks_2samp(statistic(mine), statistic(theirs)).pvalue > 0.005


def fallback_share(boxes: np.ndarray, height: int, width: int) -> float:
    central = np.rint(height * 4 / 3)
    return float(((boxes[:, 2] == height) & (boxes[:, 3] == central)).mean())


def test_the_fallback_happens_as_often_and_is_the_same_box_as_torchvisions(recipe: ViewRecipe) -> None:
    ours = drawn(recipe, np.arange(SAMPLES, dtype=np.int64), 40, 400)
    theirs = torchvision_boxes(recipe, 40, 400)
    mine = np.stack([getattr(ours, field) for field in FIELDS[:4]], axis=1)
    shares = fallback_share(mine, 40, 400), fallback_share(theirs, 40, 400)
    assert shares[1] > 0.2
    assert shares[0] == pytest.approx(shares[1], abs=0.04)
    central = [0, (400 - 53) // 2, 40, 53]
    for boxes in (mine, theirs):
        assert (boxes == central).all(axis=1).any()


@pytest.mark.parametrize(("height", "width"), [(10, 300), (300, 10)])
def test_where_no_crop_fits_the_central_one_is_torchvisions(recipe: ViewRecipe, height: int, width: int) -> None:
    ours = drawn(recipe, np.arange(50, dtype=np.int64), height, width)
    theirs = set(map(tuple, torchvision_boxes(recipe, height, width).tolist()))
    assert {tuple(int(getattr(ours, field)[i]) for field in FIELDS[:4]) for i in range(50)} == theirs
    assert len(theirs) == 1


def test_every_corner_of_an_image_is_reached_and_no_box_leaves_it(recipe: ViewRecipe) -> None:
    boxes = drawn(recipe, np.arange(20000, dtype=np.int64), 12, 12)
    bottom, right = boxes.top + boxes.height, boxes.left + boxes.width
    assert (boxes.top.min(), boxes.left.min(), bottom.max(), right.max()) == (0, 0, 12, 12)
    assert ((boxes.height == 12) & (boxes.width == 12)).any()
    assert bottom[boxes.height < 12].max() == right[boxes.width < 12].max() == 12


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_the_share_of_mirrored_views_is_the_probability(recipe: ViewRecipe, probability: float) -> None:
    changed = ViewRecipe(**vars(recipe) | {"flip_probability": probability})
    flips = drawn(changed, np.arange(SAMPLES, dtype=np.int64), 32, 32).flip.sum()
    assert stats.binomtest(int(flips), SAMPLES, probability).pvalue > 0.005


def test_a_flip_tells_nothing_of_the_crop(recipe: ViewRecipe) -> None:
    boxes = drawn(recipe, np.arange(SAMPLES, dtype=np.int64), 96, 96)
    assert stats.ks_2samp(boxes.left[boxes.flip], boxes.left[~boxes.flip]).pvalue > 0.005


def test_the_evaluation_view_is_the_central_square() -> None:
    boxes = evaluation_boxes(np.array([256, 256, 5]), np.array([256, 400, 3]), 224 / 256)
    assert boxes.top.tolist() == [16, 16, 1]
    assert boxes.left.tolist() == [16, 88, 0]
    assert boxes.height.tolist() == boxes.width.tolist() == [224, 224, 3]
    assert not boxes.flip.any()


def test_normalising_works_channel_by_channel() -> None:
    recipe = ViewRecipe(0, 2, (1, 1), (1, 1), 0, (0.1, 0.2, 0.3), (0.5, 0.25, 0.1))
    normalised = recipe.normalise(torch.full((1, 3, 2, 2), 0.6))
    torch.testing.assert_close(normalised[0, :, 1, 0], torch.tensor([1.0, 1.6, 3.0]))
