"""Which training images keep their label in semi-supervised evaluation.

ImageNet-1K's 1% and 10% are published lists (SimCLR's imagenet_subsets, one file name a line); for other data a seeded,
class-stratified share is drawn, and written in the same form so that it can be kept, read again and published.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from attndistill.core.artifacts import write_text
from attndistill.data.splits import stratified_subset


def label_subset(
    names: Sequence[str], labels: NDArray[np.int64], *, list_file: Path | None, fraction: float | None, seed: int
) -> NDArray[np.int64]:
    """Positions, ascending, of the images that keep their label: those of a list, or a drawn share.

    Args:
        names: the names of the training split.
        labels: (N,) its labels.
        list_file: see `listed_subset`.
        fraction: share of every class, at least one image of each.
        seed: key of the draw.

    Raises:
        ValueError: neither or both of list and fraction are given; a bad list; a class without a labelled image.
    """
    if (list_file is None) == (fraction is None):
        raise ValueError("a label subset is either a list_file or a fraction: give exactly one of them")
    if list_file is None:
        assert fraction is not None
        return stratified_subset(labels, fraction, seed, "label subset", leave_one=False)
    chosen = listed_subset(names, list_file)
    without = np.setdiff1d(labels, labels[chosen])
    if len(without):
        raise ValueError(f"{list_file} leaves {len(without)} of {len(np.unique(labels))} classes without an image")
    return chosen


def listed_subset(names: Sequence[str], list_file: Path) -> NDArray[np.int64]:
    """Positions, ascending, of the images a list file names.

    Args:
        names: the names of a split.
        list_file: one image a line, by its whole name or by its stem, whatever the folder and the extension
            (`n04235860_14959.JPEG`).

    Raises:
        ValueError: the list is missing or empty, repeats an image, or names one that is absent or not unique.
    """
    lines = _lines(list_file)
    whole = {name: position for position, name in enumerate(names)}
    stems = [PurePosixPath(name).stem for name in names]
    times, by_stem = Counter(stems), {stem: position for position, stem in enumerate(stems)}
    chosen: list[int] = []
    absent: list[str] = []
    ambiguous: list[str] = []
    for line in lines:
        stem = PurePosixPath(line).stem
        if line in whole:
            chosen.append(whole[line])
        elif times[stem] == 1:
            chosen.append(by_stem[stem])
        else:
            (ambiguous if times[stem] else absent).append(line)
    for wrong, what in ((absent, "are not in the data set"), (ambiguous, "fit several images (give whole names)")):
        if wrong:
            raise ValueError(f"{list_file}: {len(wrong)} of {len(lines)} names {what}, such as {wrong[0]}")
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"{list_file} names {len(chosen) - len(set(chosen))} images more than once")
    return np.sort(np.array(chosen, dtype=np.int64))


def write_subset(path: Path, names: Sequence[str], chosen: NDArray[np.int64]) -> None:
    """Keep a subset as an artifact: one whole name a line, as `listed_subset` reads."""
    write_text(path, "".join(f"{names[position]}\n" for position in chosen))


def _lines(list_file: Path) -> list[str]:
    try:
        lines = [line.strip() for line in list_file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"label list {list_file} cannot be read: {error}") from None
    if not lines:
        raise ValueError(f"label list {list_file} is empty; one image name a line is wanted")
    return lines
