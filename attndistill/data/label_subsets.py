"""Which training images keep their label in semi-supervised evaluation.

ImageNet-1K's 1% and 10% are published lists (SimCLR's imagenet_subsets, one file name a line); for other data a seeded,
class-stratified share is drawn, and written in the same form so that it can be kept, read again and published.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attndistill.core.reading import read_text
from attndistill.core.words import shown
from attndistill.data.sources import composed
from attndistill.data.splits import stratified_subset

_MOST_BYTES = 2**28


@dataclass(frozen=True)
class LeftOut:
    """What `prepare` left out of the training split, so that a published list may still name it.

    Attributes:
        classes: class names that a class list left out.
        images: stems of the images that could not be used.
    """

    classes: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> "LeftOut":
        """As the manifest of a prepared data set tells it."""
        skipped = manifest["bad_images"]["skipped"]
        images = (PurePosixPath(composed(one["name"])).stem for one in skipped if one["split"] == "train")
        return cls(frozenset(manifest.get("left_out_classes", ())), frozenset(images))

    def has_class_of(self, line: str) -> bool:
        """Whether an image's folder, or ImageNet's start of its name (n04235860_14959), is such a class."""
        path = PurePosixPath(composed(line))
        return bool(self.classes & {*path.parent.parts, path.stem.rpartition("_")[0]})

    def has_image(self, line: str) -> bool:
        """Whether it is one of the images that could not be used."""
        return PurePosixPath(composed(line)).stem in self.images


@dataclass(frozen=True)
class LabelSubset:
    """The images that keep their label, and how many a list named beside them.

    Attributes:
        positions: of the images, ascending.
        other_classes: names of classes that were left out.
        unusable: names of images that were skipped.
    """

    positions: NDArray[np.int64]
    other_classes: int = 0
    unusable: int = 0

    def sentence(self) -> str:
        """For people."""
        return (
            f"label list: {len(self.positions)} images; passed over {self.other_classes} names of classes that the "
            f"class list leaves out and {self.unusable} of images that prepare skipped"
        )


def label_subset(
    names: Sequence[str],
    labels: NDArray[np.int64],
    *,
    list_file: Path | None,
    fraction: float | None,
    seed: int,
    left_out: LeftOut = LeftOut(),
) -> LabelSubset:
    """The images that keep their label: those of a list, or a drawn share.

    Args:
        names: the names of the training split.
        labels: (N,) its labels.
        list_file: see `listed_subset`.
        fraction: share of every class, at least one image of each.
        seed: key of the draw.
        left_out: what a list may name though it is not there.

    Raises:
        ValueError: neither or both of list and fraction are given; a bad list; a class without a labelled image.
    """
    if (list_file is None) == (fraction is None):
        raise ValueError("a label subset is either a list_file or a fraction: give exactly one of them")
    if list_file is None:
        assert fraction is not None
        return LabelSubset(stratified_subset(labels, fraction, seed, "label subset", leave_one=False))
    chosen = listed_subset(names, list_file, left_out)
    without = np.setdiff1d(labels, labels[chosen.positions])
    if len(without):
        raise ValueError(
            f"{shown(list_file)} leaves {len(without)} of {len(np.unique(labels))} classes without an image"
        )
    return chosen


def listed_subset(names: Sequence[str], list_file: Path, left_out: LeftOut) -> LabelSubset:
    """The images a list file names.

    Args:
        names: the names of a split.
        list_file: one image a line, by its whole name or by its stem, whatever the folder and the extension
            (`n04235860_14959.JPEG`).
        left_out: what the list may name though it is not there.

    Raises:
        ValueError: the list is missing or empty, repeats an image, or names one that is absent or not unique.
    """
    lines = _lines(list_file)
    whole = {spelling(name): position for spelling in (composed, str) for position, name in enumerate(names)}
    stems = [PurePosixPath(composed(name)).stem for name in names]
    times, by_stem = Counter(stems), {stem: position for position, stem in enumerate(stems)}
    chosen: list[int] = []
    elsewhere: list[str] = []
    ambiguous: list[str] = []
    for line in lines:
        stem = PurePosixPath(composed(line)).stem
        if (place := whole.get(line, whole.get(composed(line)))) is not None:
            chosen.append(place)
        elif times[stem] == 1:
            chosen.append(by_stem[stem])
        else:
            (ambiguous if times[stem] else elsewhere).append(line)
    absent = [line for line in elsewhere if not (left_out.has_class_of(line) or left_out.has_image(line))]
    for wrong, what in ((absent, "are not in the data set"), (ambiguous, "fit several images (give whole names)")):
        if wrong:
            raise ValueError(
                f"{shown(list_file)}: {len(wrong)} of {len(lines)} names {what}, such as {shown(wrong[0])}"
            )
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"{shown(list_file)} names {len(chosen) - len(set(chosen))} images more than once")
    unusable = sum(left_out.has_image(line) for line in elsewhere)
    return LabelSubset(np.sort(np.array(chosen, dtype=np.int64)), len(elsewhere) - unusable, unusable)


def _lines(list_file: Path) -> list[str]:
    try:
        text = read_text(list_file, at_most=_MOST_BYTES, encoding="utf-8-sig")
    except ValueError as error:
        raise ValueError(f"label list {error}") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"label list {shown(list_file)} is empty; one image name a line is wanted")
    return lines
