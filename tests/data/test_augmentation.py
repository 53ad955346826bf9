"""RandAugment, random erasing and repeated augmentation: timm's, and pure functions of (seed, epoch, index)."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from timm.data.random_erasing import RandomErasing

from attndistill.core.generators import numbers
from attndistill.data.augmentation import Augmentation
from attndistill.data.loading import Schedule, training_batches
from attndistill.data.store import ArrayImages, ChosenImages
from attndistill.data.views import ViewRecipe

POLICY = "rand-m9-mstd0.5-inc1"
RECIPE = ViewRecipe(0, 16, (0.5, 1.0), (0.75, 1.33), 0.5, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def images(count: int = 24) -> ArrayImages:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 20, 20, 3), dtype=np.uint8)
    return ArrayImages(pixels, np.arange(count, dtype=np.int64) % 3, [str(place) for place in range(count)])


def crops(count: int = 12) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_a_view_depends_on_its_epoch_and_index_alone():
    augment, indices = Augmentation(5, POLICY, 0.5), np.arange(40, 52)
    given = crops()
    whole = augment.view(given, RECIPE, 2, indices)
    order = [7, 3, 11]
    assert torch.equal(augment.view(given[order], RECIPE, 2, indices[order]), whole[order])
    assert not torch.equal(augment.view(given, RECIPE, 3, indices), whole)
    assert not torch.equal(Augmentation(6, POLICY, 0.5).view(given, RECIPE, 2, indices), whole)


def test_a_view_is_what_timm_makes_of_the_crop_from_the_counters_seed():
    given, indices = (crops() * 255).round() / 255, np.arange(12)
    found = Augmentation(5, POLICY, 1.0).view(given, RECIPE, 0, indices)
    change = rand_augment_transform(
        POLICY, {"translate_const": 7, "img_mean": (124, 116, 104), "interpolation": Image.Resampling.BICUBIC}
    )
    erase = RandomErasing(1.0, mode="pixel", device="cpu")
    for number, crop, view in zip(numbers(5, "augmentation", 0, indices), given, found, strict=True):
        random.seed(number)
        np.random.seed(number % 2**32)
        changed = change(Image.fromarray((crop * 255).round().byte().permute(1, 2, 0).numpy()))
        wanted = RECIPE.normalise(torch.from_numpy(np.asarray(changed) / np.float32(255)).permute(2, 0, 1)[None])[0]
        random.seed(number ^ 1)
        torch.manual_seed(number ^ 1)
        torch.testing.assert_close(view, erase(wanted), rtol=1e-6, atol=1e-6)


def test_without_policy_and_erasing_a_view_is_the_normalised_crop():
    assert torch.equal(Augmentation(5, "", 0.0).view(crops(), RECIPE, 0, np.arange(12)), RECIPE.normalise(crops()))


def test_an_erased_rectangle_is_noise_and_a_quarter_of_the_views_has_one():
    given = torch.zeros(2000, 3, 16, 16)
    found = Augmentation(5, "", 0.25).view(given, RECIPE, 0, np.arange(2000))
    changed = (found != RECIPE.normalise(given)).any(dim=1)
    erased = changed.flatten(1).any(dim=1)
    assert erased.double().mean() == pytest.approx(0.25, abs=0.03)
    noise = found[changed[:, None].expand_as(found)]
    assert (noise.mean().item(), noise.std().item()) == pytest.approx((0, 1), abs=0.02)


def test_full_magnitude_makes_images_and_no_error():
    found = Augmentation(0, "rand-m10-n8-p1-inc1", 0.0).view(crops(60), RECIPE, 0, np.arange(60))
    assert found.isfinite().all()


def batches(repeats: int, workers: int = 0, first_step: int = 0, **cut):
    copies = ChosenImages(images(), np.repeat(np.arange(24), repeats))
    schedule = Schedule(length=24, batch_size=8, epochs=2, seed=3, repeats=repeats, **cut)
    augment = Augmentation(5, POLICY, 0.5)
    return list(
        training_batches(copies, RECIPE, schedule, first_step=first_step, workers=workers, augmentation=augment)
    )


def test_repeated_augmentation_shows_a_third_of_the_images_in_three_different_views_each():
    for epoch in range(2):
        taken = [batch for batch in batches(3) if batch.epoch == epoch]
        indices = np.concatenate([batch.indices for batch in taken])
        shown, counts = np.unique(indices // 3, return_counts=True)
        assert len(indices) == 24
        assert len(shown) == 8
        assert set(counts) == {3}
        assert len(set(indices)) == 24
    first = batches(3)[0]
    assert first.labels[:3].unique().numel() == 1
    assert not torch.equal(first.images[0], first.images[1])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_ranks_and_a_resumed_run_see_the_same_augmented_views():
    whole = batches(3)
    for other in (batches(3, workers=2), batches(3, first_step=2)):
        for ours, theirs in zip(whole[-len(other) :], other, strict=True):
            assert torch.equal(ours.images, theirs.images)
    by_rank = [batches(3, ranks=2, rank=rank) for rank in range(2)]
    for batch, *parts in zip(whole, *by_rank, strict=True):
        assert torch.equal(batch.images, torch.cat([part.images for part in parts]))
