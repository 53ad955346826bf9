"""The cache of targets: how fast it is written and read, beside the same bytes in a plain file (`make bench`).

The teacher is left out: what is timed is what the cache adds to it. Reading is of random batches, as a step reads, from
memory that the operating system keeps of the files (a cache larger than memory reads at the disk's speed).

Then the teacher is let in: after how many uses a stored view pays. That is what it took to make (its image read, of the
large pair from JPEG) over what each use saves, an exact step less a cached one, in processor time of one thread.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attndistill.core.features import Features
from attndistill.data.loading import Batch, view_batch
from attndistill.targets import CachedTargets, LiveTeacher, bytes_per_answer
from benchmarks.configurations import CONFIGURATIONS, Configuration, Pair, made_up_images
from benchmarks.data import JPEG_SIZE, write_jpegs
from benchmarks.timing import compared, interleaved, spread
from benchmarks.variants import Variant, prepare, stored


class _Remembered(LiveTeacher):
    """Answers any batch with the same features, at once."""

    def __init__(self, teacher: LiveTeacher, answer: Features) -> None:
        self.vit, self.device, self.fields, self.precision = teacher.vit, teacher.device, (), None
        self.answer = answer

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


def paying(pairs: Sequence[Configuration], *, repeats: int, images: int) -> dict[str, Any]:
    """After how many uses a stored view pays, by configuration and precision."""
    found = {one.label: {way: _pays(one, way, repeats, images) for way in ("fp32", "bf16")} for one in pairs}
    return {"A stored view pays": found}


def _pays(configuration: Configuration, precision: str, repeats: int, count: int) -> dict[str, Any]:
    """Seconds an image of a stored view that is made and of both steps, and after how many uses it has paid."""
    pair = Pair.built(configuration, torch.device("cpu"))
    size = min(count, configuration.batch_size["cpu"])
    with tempfile.TemporaryDirectory() as folder, _one_thread():
        large = configuration.image_size > JPEG_SIZE[1] // 2
        images = write_jpegs(Path(folder), count)[0] if large else made_up_images(configuration, count)
        teacher = LiveTeacher(pair.teacher, pair.device, (), precision)
        make = partial(stored, teacher, images, configuration.recipe, Path(folder), batch_size=256, verify=0)
        targets = make()
        batch = view_batch(images, configuration.recipe, 0, np.arange(size, dtype=np.int64))
        steps = {name: prepare(Variant(name, precision), pair, batch, targets).step for name in ("exact", "cached")}
        work: dict[str, Callable[[], object]] = {"making a view": make}
        work |= {f"{name} step": partial(_repeated, step, count // size) for name, step in steps.items()}
        seconds = interleaved(work, repeats, label=f"{configuration.label}, {precision}", clock=time.process_time)
    made, exact, cached = (np.array(seconds[name]) for name in work)
    uses = np.sort(made / (exact - cached))
    each: dict[str, Any] = {name: spread([one / count for one in found]) for name, found in seconds.items()}
    return {"pays after so many uses": f"{np.median(uses):.2f} ({uses[0]:.2f} to {uses[-1]:.2f})", **each}


def _repeated(step: Callable[[], object], times: int) -> None:
    for _ in range(times):
        step()


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
        plain, recipe = Path(folder, "plain"), _tiny(configuration).recipe
        write = partial(stored, teacher, pictures, recipe, Path(folder), batch_size=size, views=views, verify=0)
        block = np.zeros(predicted, np.uint8)
        writing = interleaved({"plain file": lambda: block.tofile(plain), "cache": write}, repeats, label="writing")
        targets = Path(folder, "targets")
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
