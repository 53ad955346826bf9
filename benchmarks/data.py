"""Images a second of the data path, beside torchvision's v2 transforms on the same work (`make bench`).

Both sides make the same kind of training view: a random resized crop (bicubic, antialiased), a flip, normalisation.
From memory ours makes a batch at once where torchvision goes image by image; from files both decode the whole JPEG.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode, v2

from attndistill.data.loading import Schedule, evaluation_batches, training_batches, view_batch
from attndistill.data.shard_writer import ShardWriter
from attndistill.data.shards import ShardImages
from attndistill.data.views import ViewRecipe
from benchmarks.configurations import CONFIGURATIONS, Configuration, made_up_images
from benchmarks.timing import compared, interleaved

JPEG_SIZE = (500, 375)  # width and height of an average ImageNet picture


def measure(*, repeats: int, images: int, workers: int) -> dict[str, Any]:
    """All figures.

    Args:
        repeats: rounds.
        images: pictures a round, of each kind.
        workers: loader processes of the second way of reading files.
    """
    small, large = CONFIGURATIONS["small"], CONFIGURATIONS["b16-s16"]
    return {
        "images": images,
        "from memory, 32 px": _from_memory(small, repeats, images),
        "from memory, 256 px to 224 px": _from_memory(large, repeats, images),
        "from JPEG files of 500 x 375 px to 224 px": _from_files(large.recipe, repeats, images, workers),
    }


def torchvision_view(recipe: ViewRecipe) -> Callable[[Any], torch.Tensor]:
    """The recipe as torchvision's v2 transforms."""
    transform: Callable[[Any], torch.Tensor] = v2.Compose(
        [
            v2.RandomResizedCrop(
                recipe.image_size, recipe.scale, recipe.ratio, InterpolationMode.BICUBIC, antialias=True
            ),
            v2.RandomHorizontalFlip(recipe.flip_probability),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(recipe.mean, recipe.std),
        ]
    )
    return transform


def _from_memory(configuration: Configuration, repeats: int, count: int) -> dict[str, Any]:
    images, recipe = made_up_images(configuration, count), configuration.recipe
    size = min(64, count)
    parts = np.split(np.arange(count, dtype=np.int64), range(size, count, size))
    transform = torchvision_view(recipe)
    pictures = torch.from_numpy(images.images).permute(0, 3, 1, 2)
    work: dict[str, Callable[[], object]] = {
        "torchvision v2, image by image": lambda: [
            torch.stack([transform(pictures[index]) for index in part]) for part in parts
        ],
        "training views": lambda: [view_batch(images, recipe, 0, part) for part in parts],
        "evaluation views": lambda: _drained(evaluation_batches(images, recipe, crop_share=0.875, batch_size=size)),
    }
    return _compared(work, repeats, count, f"views of {recipe.image_size} px")


def _from_files(recipe: ViewRecipe, repeats: int, count: int, workers: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        shards, tree = write_jpegs(Path(folder), count)
        every = ImageFolder(tree, torchvision_view(recipe))
        size = min(64, count)
        schedule = Schedule(count, size, 1, 0)

        def ours(workers: int) -> Callable[[], object]:
            return lambda: _drained(training_batches(shards, recipe, schedule, first_step=0, workers=workers))

        def theirs(workers: int) -> Callable[[], object]:
            loader = torch.utils.data.DataLoader(every, size, shuffle=True, num_workers=workers, drop_last=True)
            return lambda: _drained(loader)

        work = {
            "torchvision v2, ImageFolder": theirs(0),
            "shards": ours(0),
            f"torchvision v2, ImageFolder, {workers} workers": theirs(workers),
            f"shards, {workers} workers": ours(workers),
        }
        return _compared(work, repeats, schedule.steps * size, "views of JPEG files")


def write_jpegs(folder: Path, count: int) -> tuple[ShardImages, Path]:
    """The same made-up photographs as shards and as a tree of files."""
    tree, stored = folder / "tree" / "class", folder / "shards"
    tree.mkdir(parents=True)
    stored.mkdir()
    writer = ShardWriter(stored, "train")
    draws = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(draws.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(JPEG_SIZE, Image.Resampling.BICUBIC), dtype=np.int16)
        grain = draws.integers(-12, 13, smooth.shape, dtype=np.int16)  # so that a file is as long as a photograph's
        path = tree / f"{number}.jpg"
        Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90)
        writer.add(path.read_bytes(), JPEG_SIZE[1], JPEG_SIZE[0])
    writer.finish()
    names = [str(number) for number in range(count)]
    return ShardImages(stored, "train", np.zeros(count, np.int64), names), tree.parent


def _compared(work: dict[str, Callable[[], object]], repeats: int, count: int, label: str) -> dict[str, Any]:
    reference = next(iter(work))
    return compared(interleaved(work, repeats, label=label), reference, count)


def _drained(batches: Any) -> None:
    for _ in batches:
        pass
