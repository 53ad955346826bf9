"""The cache of targets: how fast it is written and read, beside the same bytes in a plain file (`make bench`).

The teacher is left out: what is timed is what the cache adds to it. Reading is of random batches, as a step reads, from
memory that the operating system keeps of the files (a cache larger than memory reads at the disk's speed).
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attndistill.core.features import Features
from attndistill.data.loading import Batch
from attndistill.targets import CachedTargets, LiveTeacher, bytes_per_answer, write_targets
from benchmarks.configurations import CONFIGURATIONS, Configuration, Pair, made_up_images
from benchmarks.timing import compared, interleaved


class _Remembered(LiveTeacher):
    """Answers any batch with the same features, at once."""

    def __init__(self, teacher: LiveTeacher, answer: Features) -> None:
        self.vit, self.device, self.fields, self.answer = teacher.vit, teacher.device, (), answer

    def __call__(self, batch: Batch) -> Features:
        size = len(batch.images)
        assert self.answer.log_attention is not None
        return Features(self.answer.cls_token[:size], self.answer.log_attention[:size])


def measure(*, repeats: int, images: int, views: int) -> dict[str, Any]:
    """Bytes a view, predicted and found, and bandwidths, by configuration.

    Args:
        repeats: rounds.
        images: of the set.
        views: V.
    """
    return {
        one.label: _measured(one, repeats, images, views) for one in (CONFIGURATIONS["s8-s16"], CONFIGURATIONS["small"])
    }


def _measured(configuration: Configuration, repeats: int, count: int, views: int) -> dict[str, Any]:
    pair = Pair.built(configuration, torch.device("cpu"))
    # images of one pixel: a view of them costs next to nothing
    pictures = made_up_images(_tiny(configuration), count)
    size = min(64, count)
    live = LiveTeacher(pair.teacher, pair.device)
    side = configuration.image_size
    zeros = torch.zeros(1, 3, side, side)
    one = live(Batch(zeros, torch.zeros(1, dtype=torch.int64), np.zeros(1, np.int64), 0))
    assert one.log_attention is not None
    answer = Features(one.cls_token.expand(size, -1).clone(), one.log_attention.expand(size, -1, -1).clone())
    teacher = _Remembered(live, answer)
    predicted = views * count * bytes_per_answer(pair.teacher, ())
    with tempfile.TemporaryDirectory() as folder:
        targets, plain = Path(folder, "targets"), Path(folder, "plain")

        def write() -> None:
            settings: dict[str, Any] = {"identity": {}, "views": views, "verify": 0, "processes": 1}
            settings["unfinished"] = Path(folder, "unfinished")
            write_targets(teacher, pictures, _tiny(configuration).recipe, targets, batch_size=size, **settings)

        block = np.zeros(predicted, np.uint8)
        writing = interleaved({"plain file": lambda: block.tofile(plain), "cache": write}, repeats, label="writing")
        found = sum(path.stat().st_size for path in targets.glob("*.npy"))
        with _reads(targets, plain, count, views, size) as work:
            reading = interleaved(work, repeats, label="reading")
    return {
        "bytes_a_view_predicted": predicted // (views * count),
        "bytes_a_view_found": found / (views * count),
        "write, MB": compared(writing, "plain file", predicted / 1e6),
        "read, MB": compared(reading, "plain file", predicted / 1e6),
    }


def _tiny(configuration: Configuration) -> Configuration:
    from dataclasses import replace

    return replace(configuration, image_size=8, stored_size=8)


@contextmanager
def _reads(targets: Path, plain: Path, count: int, views: int, size: int) -> Iterator[dict[str, Callable[[], object]]]:
    cached = CachedTargets(targets, torch.device("cpu"), {})
    order = np.random.default_rng(0).permutation(count)
    parts = [order[start : start + size] for start in range(0, count, size)]
    nothing = torch.zeros(0)

    def read() -> None:
        for view in range(views):
            for part in parts:
                cached(Batch(nothing, nothing, part, view))

    yield {"plain file": lambda: np.fromfile(plain, np.uint8), "cache": read}
