"""A data set before it is prepared: which images exist, what class each belongs to, and how to get at one of them.

Nothing here holds the images of a large set: a source is lists of names and labels, and a way to read one image.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attndistill.data import DATASETS

# Options that say where a data set lies, not what it is: they never enter a manifest.
LOCATIONS = ("root", "class_list", "download")


@dataclass(frozen=True)
class ArraySplit:
    """Decoded images of one size.

    Attributes:
        labels: (N,) positions in the source's class names.
        names: N distinct names.
        image: position -> (H, W, 3) uint8.
    """

    labels: NDArray[np.int64]
    names: Sequence[str]
    image: Callable[[int], NDArray[np.uint8]]

    def subset(self, chosen: NDArray[np.int64]) -> "ArraySplit":
        """The images at positions `chosen`, in that order."""
        return ArraySplit(self.labels[chosen], [self.names[i] for i in chosen], lambda i: self.image(int(chosen[i])))


@dataclass(frozen=True)
class FileSplit:
    """Encoded image files of any size.

    Attributes:
        root: where the names start.
        labels: (N,) positions in the source's class names.
        names: N distinct file names relative to `root`, with `/`.
        loose: files that belong to no class, which `prepare` names as images it cannot use.
    """

    root: Path
    labels: NDArray[np.int64]
    names: Sequence[str]
    loose: Sequence[str] = ()

    def subset(self, chosen: NDArray[np.int64]) -> "FileSplit":
        """The images at positions `chosen`, in that order."""
        return FileSplit(self.root, self.labels[chosen], [self.names[i] for i in chosen], self.loose)


Split = ArraySplit | FileSplit


@dataclass(frozen=True)
class Source:
    """A data set to prepare.

    Attributes:
        class_names: what the labels mean.
        splits: "train" and "test".
        left_out: classes that a class list left out.
        dataset: name of the registered data set; set by `open_source`.
        options: its options, without those that only say where it lies; set by `open_source`.
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, Split]
    left_out: tuple[str, ...] = ()
    dataset: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def restricted_to(self, class_list: str | None) -> "Source":
        """Only the classes a class list names, in its order; all of them without a list.

        Raises:
            ValueError: the list is missing, empty, repeats a class or names one the data set does not have.
        """
        if class_list is None:
            return self
        wanted = read_class_list(Path(class_list))
        known = set(self.class_names)
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise ValueError(
                f"{class_list}: {len(unknown)} of {len(wanted)} classes are not in the data set: {_some(unknown)}; "
                f"it has {_some(self.class_names)}"
            )
        position = {name: label for label, name in enumerate(wanted)}
        relabel = np.array([position.get(name, -1) for name in self.class_names], dtype=np.int64)
        splits = {name: _relabelled(split, relabel) for name, split in self.splits.items()}
        left_out = tuple(name for name in self.class_names if name not in position)
        return replace(self, class_names=wanted, splits=splits, left_out=left_out)


def open_source(name: str, options: Mapping[str, Any]) -> Source:
    """The registered data set `name` with `options`, defaults filled in.

    Raises:
        ValueError: unknown data set, or what the data set itself refuses.
    """
    source: Source = DATASETS.bind(name, dict(options))()
    defaults = {option.name: option.default for option in DATASETS.declared()[name]}
    described = {key: value for key, value in {**defaults, **options}.items() if key not in LOCATIONS}
    return replace(source, dataset=name, options=described)


def read_class_list(path: Path) -> tuple[str, ...]:
    """The class names of a list file, one a line; blank lines do not count. Raises ValueError (see `restricted_to`)."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # Windows editors begin with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"class list {path} cannot be read: {error}") from None
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise ValueError(f"class list {path} is empty; one class name a line is wanted")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"class list {path} repeats {_some(repeated)}")
    return names


def class_list_digest(class_names: Sequence[str]) -> str:
    """SHA-256 of a class list in its canonical text: one name a line, in order, newline at the end, UTF-8.

    So the digest of a tidy list file is its own `sha256sum`.
    """
    return hashlib.sha256("".join(f"{name}\n" for name in class_names).encode()).hexdigest()


def _relabelled(split: Split, relabel: NDArray[np.int64]) -> Split:
    chosen = np.flatnonzero(relabel[split.labels] >= 0)
    kept = split.subset(chosen)
    return replace(kept, labels=relabel[kept.labels])


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
