"""Images a second from JPEG files to an updated student: the whole of what a user waits for (`make bench`, part step).

ViT-S/16 to ViT-T/16 at 224 px by loader processes and two threads, beside the published algorithm behind torchvision's
ImageFolder and timm's own feature distillation. Each round gives every way one turn with a loader of its own, whose
start counts; steps on views that are there already are timed too, since either may hide the other.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.optim import param_groups_weight_decay
from timm.task import FeatureDistillationTask
from torch.optim import AdamW
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from attndistill.data.loading import Batch, Schedule, training_batches, view_batch
from attndistill.targets import LiveTeacher
from benchmarks.configurations import CONFIGURATIONS, Pair
from benchmarks.data import torchvision_view, write_jpegs
from benchmarks.machine import as_it_comes
from benchmarks.timing import compared, interleaved
from benchmarks.variants import Variant, prepare, stored

_CONFIGURATION = CONFIGURATIONS["s16-t16"]
_TIMM = {"teacher": "vit_small_patch16_224", "student": "vit_tiny_patch16_224"}
Batches = Callable[[], Iterator[Batch]]
Step = Callable[[Batch], object]


def measure(*, repeats: int, images: int, batch_size: int, workers: int, precisions: list[str]) -> dict[str, Any]:
    """Images a second of every way, beside the published algorithm in the same precision.

    Args:
        repeats: rounds.
        images: of a round; whole batches.
        batch_size: images a step.
        workers: loader processes.
        precisions: of "fp32" and "bf16".
    """
    with tempfile.TemporaryDirectory() as folder:
        shards, tree = write_jpegs(Path(folder), images)
        recipe = _CONFIGURATION.recipe
        pair = Pair.built(_CONFIGURATION, torch.device("cpu"))
        teacher = LiveTeacher(pair.teacher, pair.device)
        targets = stored(teacher, shards, recipe, Path(folder), batch_size=batch_size)
        schedule = Schedule(images, batch_size, 1, 0)
        pictures = ImageFolder(tree, torchvision_view(recipe))
        given = view_batch(shards, recipe, 0, np.arange(batch_size, dtype=np.int64))

        def ours() -> Iterator[Batch]:
            return training_batches(shards, recipe, schedule, first_step=0, workers=workers)

        def theirs() -> Iterator[Batch]:
            for views, labels in DataLoader(pictures, batch_size, shuffle=True, num_workers=workers, drop_last=True):
                yield Batch(views, labels, given.indices, 0)

        found: dict[str, Any] = {"images": images, "batch_size": batch_size, "loader_processes": workers}
        for precision in precisions:
            ways: dict[str, tuple[Step, Batches]] = {
                "published, ImageFolder": (prepare(Variant("reference", precision), pair, given, None).step, theirs),
                "timm's feature distillation, ImageFolder": (_timm_step(precision), theirs),
                "exact": (prepare(Variant("exact", precision), pair, given, None).step, ours),
                "cached": (prepare(Variant("cached", precision), pair, given, targets).step, ours),
            }
            found[f"{precision}, from files to an updated student"] = _compared(
                {name: _turn(step, batches) for name, (step, batches) in ways.items()}, repeats, images, precision
            )
            found[f"{precision}, steps on views that are there"] = _compared(
                {name: _one(step, given) for name, (step, _) in ways.items()}, repeats, batch_size, precision
            )
        return found


def _timm_step(precision: str) -> Step:
    """A user's loop around timm's task, its weights random."""
    student, teacher = (timm.create_model(_TIMM[half], num_classes=2) for half in ("student", "teacher"))
    task = FeatureDistillationTask(
        student, teacher, torch.nn.CrossEntropyLoss(), distill_loss_weight=1.0, verbose=False
    )
    optimizer = AdamW(param_groups_weight_decay(task.trainable_module, weight_decay=0.05), lr=1e-4)

    def step(batch: Batch) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = task(batch.images, batch.labels)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return as_it_comes(step)


def _turn(step: Step, batches: Batches) -> Callable[[], object]:
    def turn() -> None:
        for batch in batches():
            step(batch)

    return turn


def _one(step: Step, batch: Batch) -> Callable[[], object]:
    return lambda: step(batch)


def _compared(work: dict[str, Callable[[], object]], repeats: int, count: int, label: str) -> dict[str, Any]:
    return compared(interleaved(work, repeats, label=label), next(iter(work)), count)
