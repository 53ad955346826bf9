"""Images a second of the data path, beside torchvision's v2 transforms on the same work (`make bench`).

Both sides make the same kind of training view: a random resized crop (bicubic, antialiased), a flip, normalisation.
Ours is measured with exact pixels and with each declared variant (`data.views.Pixels`).
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import default_loader
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import InterpolationMode, v2

from attndistill.data.loading import Schedule, evaluation_batches, training_batches, view_batch
from attndistill.data.shard_writer import ShardWriter
from attndistill.data.shards import ShardImages
from attndistill.data.views import ViewRecipe
from benchmarks.configurations import CONFIGURATIONS, Configuration, made_up_images
from benchmarks.machine import as_it_comes
from benchmarks.timing import compared, interleaved

JPEG_SIZE = (500, 375)  # width and height of an average ImageNet picture
CAMERA_SIZE = (4000, 3000)
BATCH = 32


def measure(*, repeats: int, images: int, workers: int) -> dict[str, Any]:
    """All figures; of one process in its processor seconds, of several by the clock.

    Args:
        repeats: rounds.
        images: pictures a round, of each kind; of 12 megapixels a 32nd part.
        workers: loader processes of the second way of reading files.
    """
    small, large = CONFIGURATIONS["small"], CONFIGURATIONS["b16-s16"]
    few = max(2, images // 32)
    return {
        "images": images,
        "from memory, 32 px": _from_memory(small, repeats, images),
        "from memory, 256 px to 224 px": _from_memory(large, repeats, images),
        "from JPEG files of 500 x 375 px to 224 px": _from_files(large.recipe, repeats, images, 0, JPEG_SIZE),
        f"the same by {workers} workers": _from_files(large.recipe, repeats, images, workers, JPEG_SIZE),
        "from JPEG files of 4000 x 3000 px to 224 px": _from_files(large.recipe, repeats, few, 0, CAMERA_SIZE),
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
    quick = replace(recipe, resampling="uint8")
    parts = np.split(np.arange(count, dtype=np.int64), range(BATCH, count, BATCH))
    transform = torchvision_view(recipe)
    pictures = torch.from_numpy(images.images).permute(0, 3, 1, 2)  # channels last
    work: dict[str, Callable[[], object]] = {
        "torchvision v2 on uint8": as_it_comes(
            lambda: [torch.stack([transform(pictures[index]) for index in part]) for part in parts]
        ),
        "exact": lambda: [view_batch(images, recipe, 0, part) for part in parts],
        "uint8": lambda: [view_batch(images, quick, 0, part) for part in parts],
        "evaluation views": lambda: _drained(evaluation_batches(images, recipe, crop_share=0.875, batch_size=BATCH)),
    }
    return _compared(work, repeats, count, f"views of {recipe.image_size} px")


def _from_files(recipe: ViewRecipe, repeats: int, count: int, workers: int, size: tuple[int, int]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        shards, tree = write_jpegs(Path(folder), count, size)
        batch = min(BATCH, count)
        schedule = Schedule(count, batch, 1, 0)

        def ours(resampling: str = "exact", decoding: str = "full") -> Callable[[], object]:
            chosen = replace(recipe, resampling=resampling, decoding=decoding)
            return lambda: _drained(training_batches(shards, chosen, schedule, first_step=0, workers=workers))

        def theirs(loader: Callable[[str], Any]) -> Callable[[], object]:
            images = ImageFolder(tree, torchvision_view(recipe), loader=loader)
            batches = torch.utils.data.DataLoader(images, batch, shuffle=True, num_workers=workers, drop_last=True)
            return as_it_comes(lambda: _drained(batches))

        work = {
            "torchvision, ImageFolder with PIL": theirs(default_loader),
            "torchvision's decoder, v2 on uint8": theirs(lambda path: decode_jpeg(read_file(path), ImageReadMode.RGB)),
            "exact": ours(),
            "uint8": ours(resampling="uint8"),
            "scaled": ours(decoding="scaled"),
            "uint8, scaled": ours(resampling="uint8", decoding="scaled"),
        }
        label = f"JPEG files of {size[0]} x {size[1]}, {workers} workers"
        return _compared(work, repeats, schedule.steps * batch, label, time.perf_counter if workers else None)


def write_jpegs(folder: Path, count: int, size: tuple[int, int] = JPEG_SIZE) -> tuple[ShardImages, Path]:
    """The same made-up photographs as shards and as a tree of files."""
    tree, stored = folder / "tree" / "class", folder / "shards"
    tree.mkdir(parents=True)
    stored.mkdir()
    writer = ShardWriter(stored, "train")
    draws = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(draws.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
        grain = draws.integers(-12, 13, smooth.shape, dtype=np.int16)  # so that a file is as long as a photograph's
        path = tree / f"{number}.jpg"
        Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90)
        writer.add(path.read_bytes(), size[1], size[0])
    writer.finish()
    names = [str(number) for number in range(count)]
    return ShardImages(stored, "train", np.zeros(count, np.int64), names), tree.parent


def _compared(
    work: dict[str, Callable[[], object]],
    repeats: int,
    count: int,
    label: str,
    clock: Callable[[], float] | None = None,
) -> dict[str, Any]:
    seconds = interleaved(work, repeats, label=label, clock=clock or time.process_time)
    return compared(seconds, next(iter(work)), count)


def _drained(batches: Any) -> None:
    for _ in batches:
        pass
