"""A data set before it is prepared: which images exist, what class each belongs to, and how to get at one of them.

Nothing here holds the images of a large set: a source is lists of names and labels, and a way to read one image.
"""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attndistill.core.reading import read_text
from attndistill.core.words import shown, spelled
from attndistill.data import DATASETS

# Options that say where a data set lies, not what it is: they never enter a manifest.
LOCATIONS = ("root", "class_list", "list_file", "download")

UNLABELLED = ("unlabelled",)  # the class names of images without labels


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
        aside: hidden files and litter that was not looked at, which the manifest lists.
    """

    root: Path
    labels: NDArray[np.int64]
    names: Sequence[str]
    loose: Sequence[str] = ()
    aside: Sequence[str] = ()

    def subset(self, chosen: NDArray[np.int64]) -> "FileSplit":
        """The images at positions `chosen`, in that order."""
        return replace(self, labels=self.labels[chosen], names=[self.names[i] for i in chosen])


Split = ArraySplit | FileSplit


@dataclass(frozen=True)
class Source:
    """A data set to prepare.

    Attributes:
        class_names: what the labels mean.
        splits: "train" and "test".
        left_out: classes that a class list left out.
        labelled: whether the labels mean anything; unlabelled images are all of one class that stands for none.
        dataset: name of the registered data set; set by `open_source`.
        options: its options, without those that only say where it lies; set by `open_source`.
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, Split]
    left_out: tuple[str, ...] = ()
    labelled: bool = True
    dataset: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def restricted_to(self, class_list: str | None) -> "Source":
        """Only the classes a class list names, in its order; all of them without a list.

        Raises:
            ValueError: the list is missing, empty, repeats a class or names one the data set does not have.
        """
        if class_list is None:
            return self
        known = {composed(name): name for name in self.class_names}
        listed = [composed(line) for line in read_class_list(Path(class_list))]
        wanted = tuple(known.get(line) or known.get(line.strip()) or line.strip() for line in listed)
        repeated = [name for name, count in Counter(wanted).items() if count > 1]
        if repeated:
            raise ValueError(f"class list {shown(class_list)} repeats {_some(repeated)}")
        unknown = [name for name in wanted if composed(name) not in known]
        if unknown:
            raise ValueError(
                f"{shown(class_list)}: {len(unknown)} of {len(wanted)} classes are not in the data set: "
                f"{_some(unknown)}; it has {_some(self.class_names)}"
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
    """The lines of a class list, one name each; blank ones do not count. Raises ValueError (see `restricted_to`)."""
    try:
        lines = read_text(path, encoding="utf-8-sig").splitlines()  # Windows editors begin with a mark
    except ValueError as error:
        raise ValueError(f"class list {error}") from None
    names = tuple(line for line in lines if line.strip())
    if not names:
        raise ValueError(f"class list {shown(path)} is empty; one class name a line is wanted")
    return names


def composed(name: str) -> str:
    """The one spelling (NFC) of a name whose accents may be letters of their own (NFD, as macOS unpacks archives)."""
    return unicodedata.normalize("NFC", name)


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
    """The first names; with escapes where some would look the same."""
    look = spelled if len({unicodedata.normalize("NFKC", name).strip() for name in names}) < len(set(names)) else shown
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(look(name) for name in names[:most]) + more
