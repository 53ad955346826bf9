"""Batches: the global order of images, cut into ranks and micro-batches, the same for any number of workers or ranks.

The order of an epoch is one permutation keyed by (seed, epoch), known to everybody. Step s of the run takes images
[s B, (s + 1) B) of it; a rank and a micro-batch take a contiguous slice of those. (The published code seeds the
sampler with seed + rank: its ranks overlap and about a third of the images is missed in an epoch at 8 ranks.)
"""

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from attndistill.core.randomness import permutation
from attndistill.data.store import ImageSet
from attndistill.data.views import ViewRecipe, evaluation_boxes

# B batch, S side of the view


@dataclass(frozen=True)
class Batch:
    """One micro-batch: normalised views, and which (epoch, index) each of them is."""

    images: Float[Tensor, "B 3 S S"]
    labels: Int[Tensor, " B"]
    indices: NDArray[np.int64]
    epoch: int


class Augments(Protocol):
    """What turns crops in [0, 1] into views, where that is more than to normalise them."""

    def view(
        self, crops: Float[Tensor, "B 3 S S"], recipe: ViewRecipe, epoch: int, indices: NDArray[np.int64]
    ) -> Float[Tensor, "B 3 S S"]: ...


@dataclass(frozen=True)
class Schedule:
    """Which images step s of a run trains on.

    Attributes:
        length: images that are shown, all of the training split as a rule.
        batch_size: effective batch size, over all ranks and micro-batches.
        epochs: passes over the split; the incomplete last batch of each is dropped.
        seed: key of the order.
        micro_batches: slices of a batch that one rank works through before an update.
        ranks: processes that share a batch.
        rank: which of them this is.
        order_per_rank: the published code's order: each rank cuts its share from a permutation of its own.
        drawn_from: images in the training split, where only some are shown: those that the seed draws, and of a smaller
            share some of the same.
        repeats: copies of an image that follow one another (repeated augmentation); an epoch then shows one in so many
            images. Copy c of image i is number i x repeats + c: each is another view.
    """

    length: int
    batch_size: int
    epochs: int
    seed: int
    micro_batches: int = 1
    ranks: int = 1
    rank: int = 0
    order_per_rank: bool = False
    drawn_from: int | None = None
    repeats: int = 1

    def __post_init__(self) -> None:
        if self.batch_size > self.length:
            raise ValueError(f"batch size {self.batch_size} is larger than the {self.length} training images")
        if self.batch_size % (self.ranks * self.micro_batches):
            raise ValueError(
                f"batch size {self.batch_size} cannot be cut into {self.ranks} ranks x "
                f"{self.micro_batches} micro-batches"
            )

    @property
    def steps_per_epoch(self) -> int:
        return self.length // self.batch_size

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def order(self, epoch: int) -> NDArray[np.int64]:
        """All images of `epoch`, in training order; with `order_per_rank` this rank's share of them."""
        order = permutation(self.seed + (self.rank if self.order_per_rank else 0), "order", epoch, self.length)
        if self.drawn_from is not None:
            order = permutation(self.seed, "drawn", 0, self.drawn_from)[order]
        if self.order_per_rank:
            return order[self.rank :: self.ranks]
        return (order[:, None] * self.repeats + np.arange(self.repeats)).ravel()[: self.length]

    def micro_batch(self, order: NDArray[np.int64], step_in_epoch: int, micro_batch: int) -> NDArray[np.int64]:
        """This rank's indices of one micro-batch."""
        size = self.batch_size // (self.ranks * self.micro_batches)
        start = step_in_epoch * self.batch_size + (self.rank * self.micro_batches + micro_batch) * size
        if self.order_per_rank:
            start = (step_in_epoch * self.micro_batches + micro_batch) * size
        return order[start : start + size]


ViewEpoch = Callable[[int], int]


def every_epoch(epoch: int) -> int:
    """A new view of every image in every epoch. (Not a lambda: spawned workers receive it pickled.)"""
    return epoch


class _Views(Dataset):  # type: ignore[type-arg]
    """Micro-batch number -> Batch. A worker computes whole batches, so nothing is collated."""

    def __init__(
        self,
        images: ImageSet,
        recipe: ViewRecipe,
        schedule: Schedule,
        view_epoch: ViewEpoch,
        augmentation: Augments | None = None,
    ) -> None:
        self.images, self.recipe, self.schedule, self.view_epoch = images, recipe, schedule, view_epoch
        self.augmentation = augmentation
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def __getitem__(self, number: int) -> Batch:
        step, micro_batch = divmod(number, self.schedule.micro_batches)
        epoch, step_in_epoch = divmod(step, self.schedule.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, self.schedule.order(epoch)
        indices = self.schedule.micro_batch(self._order[1], step_in_epoch, micro_batch)
        return view_batch(self.images, self.recipe, self.view_epoch(epoch), indices, self.augmentation)


def view_batch(
    images: ImageSet,
    recipe: ViewRecipe,
    epoch: int,
    indices: NDArray[np.int64],
    augmentation: Augments | None = None,
) -> Batch:
    """The training views of `indices` in view epoch `epoch`."""
    boxes = recipe.boxes(epoch, indices, *images.sizes(indices))
    crops = images.crops(indices, boxes, recipe.image_size, recipe.pixels)
    if augmentation is None:
        views = recipe.normalise(crops, in_place=True)
    else:
        views = augmentation.view(crops, recipe, epoch, indices)
    return Batch(views, _labels(images, indices), indices, epoch)


def training_batches(
    images: ImageSet,
    recipe: ViewRecipe,
    schedule: Schedule,
    *,
    first_step: int,
    workers: int,
    view_epoch: ViewEpoch = every_epoch,
    augmentation: Augments | None = None,
) -> Iterator[Batch]:
    """This rank's micro-batches from `first_step` to the end of the run, in order.

    Args:
        images: the training split.
        recipe: how views are drawn.
        schedule: which images each step takes.
        first_step: where a resumed run goes on.
        workers: loader processes; 0 computes in this process. Changes nothing but speed.
        view_epoch: epoch -> view epoch (a finite number of views V repeats them: e mod V).
        augmentation: of the views, beyond crop and flip.
    """
    numbers = range(first_step * schedule.micro_batches, schedule.steps * schedule.micro_batches)
    yield from _loaded(_Views(images, recipe, schedule, view_epoch, augmentation), numbers, workers)


def _loaded(batches: "Dataset[Batch]", numbers: range, workers: int) -> Iterator[Batch]:
    """These batches, by so many processes. Nothing is collated: a batch is made whole."""
    return iter(DataLoader(batches, batch_size=None, sampler=numbers, num_workers=workers, worker_init_fn=_undisturbed))


class _InOrder(Dataset):  # type: ignore[type-arg]
    """Batch number -> the views of that part."""

    def __init__(self, cut: Callable[[NDArray[np.int64]], Batch], parts: list[NDArray[np.int64]]) -> None:
        self.cut, self.parts = cut, parts

    def __getitem__(self, number: int) -> Batch:
        return self.cut(self.parts[number])


def _in_order(
    cut: Callable[[NDArray[np.int64]], Batch], indices: NDArray[np.int64], batch_size: int, workers: int
) -> Iterator[Batch]:
    parts = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
    yield from _loaded(_InOrder(cut, parts), range(len(parts)), workers)


def _undisturbed(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; a loader that it ended would be an error in the one that answers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def stored_batches(
    images: ImageSet, recipe: ViewRecipe, view: int, *, batch_size: int, workers: int
) -> Iterator[Batch]:
    """Every image of a split once, in order, as its training view of epoch `view`; the rest is as below."""
    every = np.arange(len(images), dtype=np.int64)
    return _in_order(partial(view_batch, images, recipe, view), every, batch_size, workers)


def evaluation_batches(
    images: ImageSet,
    recipe: ViewRecipe,
    *,
    crop_share: float,
    batch_size: int,
    indices: NDArray[np.int64] | None = None,
    workers: int = 0,
) -> Iterator[Batch]:
    """Every image of a split once, in order, as the central evaluation view (epoch is -1: no random view).

    Args:
        images: the split.
        recipe: the size and normalisation of the views.
        crop_share: see `evaluation_boxes`.
        batch_size: images a batch; the last may have fewer.
        indices: only these images, in this order.
        workers: loader processes; 0 computes in this process. Changes nothing but speed.
    """
    chosen = np.arange(len(images), dtype=np.int64) if indices is None else indices
    return _in_order(partial(_central_batch, images, recipe, crop_share), chosen, batch_size, workers)


def _central_batch(images: ImageSet, recipe: ViewRecipe, crop_share: float, indices: NDArray[np.int64]) -> Batch:
    boxes = evaluation_boxes(*images.sizes(indices), crop_share)
    crops = images.crops(indices, boxes, recipe.image_size, recipe.pixels)
    views = recipe.normalise(crops, in_place=True)
    return Batch(views, _labels(images, indices), indices, -1)


def _labels(images: ImageSet, indices: NDArray[np.int64]) -> Int[Tensor, " B"]:
    import torch

    return torch.from_numpy(np.ascontiguousarray(images.labels[indices]))
