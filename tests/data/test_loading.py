"""The same batches for any number of workers and ranks, and from any step on."""

from pathlib import Path

import numpy as np
import pytest
import torch

from attndistill.data.loading import Batch, Schedule, evaluation_batches, training_batches, view_batch
from attndistill.data.store import ArrayImages, ImageSet, open_split
from attndistill.data.views import ViewRecipe

LENGTH = 50


@pytest.fixture(params=["arrays", "shards"])
def images(request: pytest.FixtureRequest) -> ImageSet:
    if request.param == "shards":
        tree: Path = request.getfixturevalue("tree")
        request.getfixturevalue("prepare_set")("image_folder", {"root": str(tree)})
        return open_split(tree.parent / "prepared", "train")
    pixels = np.random.default_rng(0).integers(0, 256, (LENGTH, 24, 20, 3), dtype=np.uint8)
    return ArrayImages(pixels, np.arange(LENGTH, dtype=np.int64) % 5, [f"image-{i}" for i in range(LENGTH)])


def schedule_for(images: ImageSet, **changed: int) -> Schedule:
    return Schedule(**{"length": len(images), "batch_size": 4, "epochs": 2, "seed": 9} | changed)


def run(images: ImageSet, recipe: ViewRecipe, schedule: Schedule, first_step: int = 0, workers: int = 0) -> list[Batch]:
    return list(training_batches(images, recipe, schedule, first_step=first_step, workers=workers))


def assert_same(ours: list[Batch], wanted: list[Batch]) -> None:
    assert len(ours) == len(wanted) > 0
    for mine, theirs in zip(ours, wanted, strict=True):
        assert mine.epoch == theirs.epoch
        np.testing.assert_array_equal(mine.indices, theirs.indices)
        assert torch.equal(mine.images, theirs.images)
        assert torch.equal(mine.labels, theirs.labels)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 4])
def test_workers_change_nothing(images: ImageSet, recipe: ViewRecipe, workers: int) -> None:
    schedule = schedule_for(images)
    assert_same(run(images, recipe, schedule, workers=workers), run(images, recipe, schedule))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_goes_on_with_the_same_batches(images: ImageSet, recipe: ViewRecipe, workers: int) -> None:
    schedule = schedule_for(images, micro_batches=2)
    whole = run(images, recipe, schedule)
    for first_step in (1, schedule.steps_per_epoch, schedule.steps - 1):
        assert_same(run(images, recipe, schedule, first_step, workers), whole[2 * first_step :])
    assert run(images, recipe, schedule, schedule.steps) == []


@pytest.mark.parametrize(("ranks", "micro_batches"), [(2, 1), (4, 1), (1, 4), (2, 2)])
def test_ranks_and_micro_batches_share_the_one_batch(
    images: ImageSet, recipe: ViewRecipe, ranks: int, micro_batches: int
) -> None:
    whole = run(images, recipe, schedule_for(images))
    parts = [
        run(images, recipe, schedule_for(images, ranks=ranks, rank=rank, micro_batches=micro_batches))
        for rank in range(ranks)
    ]
    for step, batch in enumerate(whole):
        pieces = [part[step * micro_batches + piece] for part in parts for piece in range(micro_batches)]
        np.testing.assert_array_equal(np.concatenate([piece.indices for piece in pieces]), batch.indices)
        assert torch.equal(torch.cat([piece.images for piece in pieces]), batch.images)


def test_an_epoch_takes_every_image_once_but_for_the_dropped_rest(images: ImageSet, recipe: ViewRecipe) -> None:
    schedule = schedule_for(images)
    batches = run(images, recipe, schedule)
    for epoch in range(2):
        taken = np.concatenate([batch.indices for batch in batches if batch.epoch == epoch])
        assert len(taken) == len(images) // 4 * 4
        assert len(np.unique(taken)) == len(taken)
    assert not np.array_equal(batches[0].indices, batches[schedule.steps_per_epoch].indices)


def test_labels_and_pixels_belong_to_the_index(recipe: ViewRecipe) -> None:
    shades = np.repeat(np.arange(LENGTH, dtype=np.uint8), 64).reshape(LENGTH, 8, 8, 1).repeat(3, axis=3)
    images = ArrayImages(shades, np.arange(LENGTH, dtype=np.int64) * 2, [str(i) for i in range(LENGTH)])
    for batch in run(images, recipe, schedule_for(images)):
        shade = torch.from_numpy(batch.indices).float()[:, None, None, None] / 255
        torch.testing.assert_close(batch.images, shade.expand_as(batch.images), rtol=0, atol=1e-5)
        assert batch.labels.tolist() == (2 * batch.indices).tolist()


def test_a_finite_number_of_views_repeats_them_and_not_the_order(images: ImageSet, recipe: ViewRecipe) -> None:
    schedule = schedule_for(images)
    batches = list(training_batches(images, recipe, schedule, first_step=0, workers=0, view_epoch=lambda _: 0))
    second = batches[schedule.steps_per_epoch]
    assert_same([view_batch(images, recipe, 0, second.indices)], [second])
    assert not torch.equal(view_batch(images, recipe, 1, second.indices).images, second.images)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_sees_every_image_once_in_order(images: ImageSet, recipe: ViewRecipe, workers: int) -> None:
    batches = list(evaluation_batches(images, recipe, crop_share=1.0, batch_size=7, workers=workers))
    np.testing.assert_array_equal(np.concatenate([batch.indices for batch in batches]), np.arange(len(images)))
    np.testing.assert_array_equal(torch.cat([batch.labels for batch in batches]), images.labels)
    chosen = np.array([5, 2, 9])
    some = list(evaluation_batches(images, recipe, crop_share=1.0, batch_size=2, indices=chosen))
    assert torch.equal(torch.cat([b.images for b in some]), torch.cat([b.images for b in batches])[chosen])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batch_size": 51}, "batch size 51 is larger than the 50 training images"),
        ({"batch_size": 6, "ranks": 4}, "batch size 6 cannot be cut into 4 ranks x 1 micro-batches"),
        ({"batch_size": 6, "ranks": 3, "micro_batches": 4}, "3 ranks x 4 micro-batches"),
    ],
)
def test_a_batch_that_does_not_divide_is_refused(changed: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule(**{"length": LENGTH, "epochs": 1, "seed": 0} | changed)


def test_the_published_order_misses_images_because_its_ranks_overlap():
    """Four ranks see the share 1 - (1 - 1/4)^4 = 68 % of the images in an epoch, ours all of them."""
    ours, published = (
        [
            Schedule(4000, 400, 1, seed=9, micro_batches=2, ranks=4, rank=rank, order_per_rank=per_rank)
            for rank in range(4)
        ]
        for per_rank in (False, True)
    )
    seen = {}
    for name, schedules in (("ours", ours), ("published", published)):
        parts = [
            schedule.micro_batch(schedule.order(0), step, part)
            for schedule in schedules
            for step in range(schedule.steps_per_epoch)
            for part in range(2)
        ]
        assert {len(part) for part in parts} == {50}
        seen[name] = len(set(np.concatenate(parts).tolist())) / 4000
    assert seen["ours"] == 1
    assert seen["published"] == pytest.approx(1 - 0.75**4, abs=0.02)
    alone = Schedule(50, 4, 1, seed=9, order_per_rank=True)
    np.testing.assert_array_equal(alone.order(0), Schedule(50, 4, 1, seed=9).order(0))


def test_a_share_of_the_images_is_drawn_by_the_seed_and_a_smaller_one_is_part_of_it():
    def shown(length: int, seed: int = 9) -> list[set[int]]:
        schedule = Schedule(length, 5, 2, seed=seed, drawn_from=100)
        return [set(schedule.order(epoch).tolist()) for epoch in range(2)]

    half, tenth = shown(50), shown(10)
    assert half[0] == half[1], "every epoch shows the same images"
    assert len(half[0]) == 50
    assert tenth[0] < half[0] < set(range(100))
    assert shown(50, seed=8)[0] != half[0]
    assert shown(100)[0] == set(range(100))
