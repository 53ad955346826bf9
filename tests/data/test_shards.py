"""Shards against PIL and torchvision on the original files."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from attndistill.data.loading import Schedule, _Views, every_epoch, training_batches
from attndistill.data.shard_writer import ShardWriter
from attndistill.data.shards import ShardImages
from attndistill.data.store import open_split
from attndistill.data.views import ViewRecipe

Prepare = Callable[..., dict[str, Any]]


@pytest.fixture
def images(tree: Path, prepare_set: Prepare) -> ShardImages:
    prepare_set("image_folder", {"root": str(tree)})
    opened = open_split(tree.parent / "prepared", "train")
    assert isinstance(opened, ShardImages)
    return opened


def test_crops_equal_torchvision_on_the_pil_image_to_the_bit(
    images: ShardImages, tree: Path, recipe: ViewRecipe
) -> None:
    indices = np.arange(len(images), dtype=np.int64).repeat(8)
    for epoch in range(2):
        boxes = recipe.boxes(epoch, indices, *images.sizes(indices))
        ours = images.crops(indices, boxes, 16)
        for row, index in enumerate(indices):
            picture = Image.open(tree / "train" / images.names[index]).convert("RGB")
            box = [int(getattr(boxes, side)[row]) for side in ("top", "left", "height", "width")]
            view = reference.resized_crop(picture, *box, [16, 16], InterpolationMode.BICUBIC)
            view = reference.horizontal_flip(view) if boxes.flip[row] else view
            assert torch.equal(ours[row], torch.from_numpy(np.array(view)).permute(2, 0, 1) / 255)


def test_sizes_and_files_are_the_originals(images: ShardImages, tree: Path) -> None:
    heights, widths = images.sizes(np.arange(len(images)))
    for index, name in enumerate(images.names):
        with Image.open(tree / "train" / name) as picture:
            assert (widths[index], heights[index]) == picture.size
        assert images.encoded(index) == (tree / "train" / name).read_bytes()
        assert images.labels[index] == ["ant", "bee"].index(name.split("/")[0])


def test_files_spread_over_several_shards_read_back(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, "train", shard_bytes=100)
    files = [bytes([number]) * size for number, size in enumerate((60, 40, 1, 250, 99, 30))]
    for number, data in enumerate(files):
        writer.add(data, number + 1, 2 * number + 2)
    assert writer.finish()["shards"] == 5
    images = ShardImages(tmp_path, "train", np.zeros(6, np.int64), list("abcdef"))
    assert [images.encoded(number) for number in range(6)] == files
    sizes = [path.stat().st_size for path in sorted(tmp_path.glob("*.bin"))]
    assert sizes == [100, 1, 250, 99, 30]  # full to the byte; a file larger than a shard has one to itself
    assert images.sizes(np.array([4, 1]))[1].tolist() == [10, 4]


def test_a_worker_that_is_spawned_sees_the_same_batches(images: ShardImages, recipe: ViewRecipe) -> None:
    schedule = Schedule(len(images), 4, 1, 0)
    views = pickle.loads(pickle.dumps(_Views(images, recipe, schedule, every_epoch)))
    here = list(training_batches(images, recipe, schedule, first_step=0, workers=0))
    there = list(DataLoader(views, batch_size=None, num_workers=1, sampler=range(3), multiprocessing_context="spawn"))
    assert len(here) == len(there) == 3
    assert all(torch.equal(a.images, b.images) for a, b in zip(here, there, strict=True))


def test_a_worker_is_sent_the_index_and_not_the_images(
    images: ShardImages, prepare_set: Prepare, tmp_path: Path
) -> None:
    total = sum(len(images.encoded(number)) for number in range(len(images)))
    assert len(pickle.dumps(images)) < total / 4
    prepare_set("digits", {}, to="digits")
    digits = open_split(tmp_path / "digits", "train")
    message = pickle.dumps(digits)
    assert len(message) < 60_000
    everything = np.arange(len(digits))
    assert digits.sizes(everything)[0].tolist() == pickle.loads(message).sizes(everything)[0].tolist()
    np.testing.assert_array_equal(pickle.loads(message).images, digits.images)


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"x"])
def test_a_shard_of_another_length_is_refused(images: ShardImages, change) -> None:
    shard = images.directory / "train-shard-00000.bin"
    shard.write_bytes(change(shard.read_bytes()))
    with pytest.raises(ValueError, match=r"train-shard-00000\.bin has \d+ bytes, the index says \d+"):
        open_split(images.directory, "train")


def test_a_missing_shard_is_refused(images: ShardImages) -> None:
    (images.directory / "test-shard-00000.bin").unlink()
    with pytest.raises(ValueError, match=r"test-shard-00000\.bin has 0 bytes"):
        open_split(images.directory, "test")


def test_an_index_of_another_set_is_refused(images: ShardImages) -> None:
    index = np.load(images.directory / "test-index.npy")
    np.save(images.directory / "train-index.npy", index)
    with pytest.raises(ValueError, match="index of train has 6 entries for 12 labels"):
        open_split(images.directory, "train")
