"""Class-stratified subsets, drawn by the counter-based generator: the same for equal labels, fraction and seed."""

import numpy as np
from numpy.typing import NDArray

from attndistill.core.randomness import permutation


def stratified_subset(
    labels: NDArray[np.int64], fraction: float, seed: int, purpose: str, *, leave_one: bool
) -> NDArray[np.int64]:
    """Positions of a random `fraction` of every class, in ascending order.

    Args:
        labels: (N,) class of each item.
        fraction: share of each class, rounded to the nearest count, at least one.
        seed: key of the draw.
        purpose: what the subset is for; subsets for different purposes are independent.
        leave_one: take at most all but one of a class (none of a class of one), so that the rest has it too.

    Raises:
        ValueError: `fraction` is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction {fraction} of the images is not allowed; it must be above 0 and at most 1")
    sizes = np.bincount(labels)
    wanted = np.clip(np.rint(sizes * fraction), 1, np.maximum(sizes - leave_one, 0))
    return np.flatnonzero(_ranks(labels, seed, purpose) < wanted[labels])


def balanced_subset(labels: NDArray[np.int64], most: int, least: int, seed: int, purpose: str) -> NDArray[np.int64]:
    """Positions, ascending, of at most `most` items, equally many of every class as far as a class has them.

    Args:
        labels: (N,) class of each item.
        most: items in all, at least two classes' `least`.
        least: items a class; where `most` is not enough for that, a random part of the classes is taken.
        seed: key of the draw.
        purpose: what the subset is for.
    """
    classes = np.unique(labels)
    kept = classes[permutation(seed, f"{purpose}, classes", 0, len(classes))[: max(2, most // least)]]
    chosen = (_ranks(labels, seed, purpose) < most // len(kept)) & np.isin(labels, kept)
    return np.flatnonzero(chosen)


def first_of_classes(labels: NDArray[np.int64], most: int = 6) -> list[int]:
    """The position of the first item of each of the first `most` classes: a few pictures that differ."""
    return [int(position) for position in np.unique(labels, return_index=True)[1][:most]]


def train_test_split(
    labels: NDArray[np.int64], test_fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of a stratified train and test part; the image of a class of one is in train. Raises as above."""
    if not 0 < test_fraction < 1:
        raise ValueError(f"test fraction {test_fraction} is not allowed; it must lie between 0 and 1")
    test = stratified_subset(labels, test_fraction, seed, "train/test split", leave_one=True)
    return np.setdiff1d(np.arange(len(labels)), test), test


def _ranks(labels: NDArray[np.int64], seed: int, purpose: str) -> NDArray[np.int64]:
    """The place of each item in a random order of its class."""
    order = permutation(seed, purpose, 0, len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    sizes = np.bincount(labels)
    ranks = np.empty(len(labels), np.int64)
    ranks[by_class] = np.arange(len(labels)) - (np.cumsum(sizes) - sizes)[labels[by_class]]
    return ranks
