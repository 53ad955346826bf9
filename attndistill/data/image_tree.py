"""Trees of image files, one folder a class, as ImageNet-1K is laid out.

Hidden names and the litter of operating systems are left aside, and the manifest lists them. Every other file below a
class folder counts as an image; one that is none, or that lies beside the class folders, is named by `prepare`, never
passed over. Folders that spell one name in two ways (NFC, NFD) are one class.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from attndistill.core.reading import machine_fault, read_text
from attndistill.core.words import shown
from attndistill.data.sources import FileSplit, Source, composed
from attndistill.data.splits import train_test_split

_TEST_FOLDERS = ("val", "test")
_DEEPEST = 100  # folders in folders
_FEWEST = 3  # unlabelled images
_LITTER = re.compile(
    r"\..*|(eh)?thumbs(_vista)?\.db(:encryptable)?|desktop\.ini|__macosx|@eadir|\$recycle\.bin|lost\+found|icon\r"
    r"|system volume information",
    re.IGNORECASE | re.DOTALL,
)


def split_tree(root: Path, test_folder: str | None) -> Source:
    """root/train/<class>/... and root/val or root/test. Raises ValueError when a folder is missing or ambiguous."""
    if not _has_folder(root / "train"):
        raise ValueError(
            f"{shown(root)} has no folder 'train'; give a tree with train and val (or test) folders, or for a tree of "
            f"class folders alone a test_fraction"
        )
    found = [name for name in ([test_folder] if test_folder else _TEST_FOLDERS) if _has_folder(root / name)]
    if len(found) != 1:
        has = f"both {' and '.join(found)}" if found else f"none of {shown(test_folder or 'val, test')}"
        raise ValueError(f"{shown(root)} has {has} to test on; name the folder with test_folder")
    folders = {"train": root / "train", "test": root / found[0]}
    trees = {split: _Tree.of(folder) for split, folder in folders.items()}
    if not trees["train"].classes.keys() & trees["test"].classes.keys():
        found_there = shown(", ".join(sorted(trees["test"].classes)))
        raise ValueError(
            f"{shown(folders['test'])} has none of the classes of train, but {found_there}: "
            f"sort its images into a folder for each class first"
        )
    class_names = sorted({name for tree in trees.values() for name in tree.classes})
    return Source(tuple(class_names), {split: tree.scan(class_names) for split, tree in trees.items()})


def unsplit_tree(root: Path, test_fraction: float, split_seed: int) -> Source:
    """root/<class>/..., cut into a stratified train and test part."""
    if _has_folder(root / "train"):
        raise ValueError(f"{shown(root)} has a folder 'train': a test_fraction is for trees that are not split already")
    tree = _Tree.of(root)
    class_names = sorted(tree.classes)
    everything = tree.scan(class_names)
    train, test = train_test_split(everything.labels, test_fraction, split_seed)
    splits = {"train": everything.subset(train), "test": replace(everything.subset(test), loose=(), aside=())}
    return Source(tuple(class_names), splits)


def unlabelled_photos(root: Path | None, list_file: Path | None = None) -> FileSplit:
    """Every file below a folder, or those that a list names, sorted; what is no image is named by `prepare`.

    Raises:
        ValueError: neither given, no such folder or list, a listed name twice or outside of the folder, under 3 files.
    """
    if root is None and list_file is None:
        raise ValueError("photos: neither root nor list_file is given; allowed: a folder of images, or a list of files")
    folder = root if root is not None else Path(str(list_file)).parent
    if not _has_folder(folder):
        raise ValueError(f"{shown(folder)} is not a folder; allowed: a folder with images in it")
    aside: list[str] = []
    names = every_file(folder, aside) if list_file is None else _listed(list_file, folder)
    if len(names) < _FEWEST:
        raise ValueError(
            f"{shown(list_file or folder)} has {len(names) or 'no'} image{'s' * (len(names) != 1)}; allowed: {_FEWEST} "
            "or more (to train on, to choose on, to hold out)"
        )
    return FileSplit(folder, np.zeros(len(names), np.int64), names, (), sorted(aside))


def every_file(folder: Path, aside: list[str]) -> list[str]:
    """Names of all files below a folder, sorted, links followed once; the names of litter go to `aside`."""
    status = folder.stat()
    seen = {(status.st_dev, status.st_ino)}
    found: list[str] = []
    for entry in _entries(folder, "", aside):
        found += _files(folder, entry.name, seen, aside) if _has_folder(entry) else [entry.name]
    return sorted(found)


def _listed(list_file: Path, folder: Path) -> list[str]:
    """The names in a list, relative to the folder."""
    lines = [line.strip() for line in read_text(list_file, encoding="utf-8-sig").splitlines()]
    names = []
    for line in filter(None, lines):
        path = Path(os.path.normpath(folder / line))
        if not path.is_relative_to(os.path.normpath(folder)):
            raise ValueError(f"{shown(list_file)}: {shown(line)} lies outside of {shown(folder)}; set root above both")
        names.append(path.relative_to(os.path.normpath(folder)).as_posix())
    repeated = next((name for name, count in Counter(names).items() if count > 1), None)
    if repeated is not None:
        raise ValueError(f"{shown(list_file)} names {shown(repeated)} more than once; allowed: each file once")
    return sorted(names)


@dataclass(frozen=True)
class _Tree:
    """What lies directly in a folder of class folders: class name -> its folders, other files, litter."""

    folder: Path
    classes: dict[str, list[str]]
    loose: list[str]
    aside: list[str]

    @classmethod
    def of(cls, folder: Path) -> "_Tree":
        if not _has_folder(folder):
            raise ValueError(f"{shown(folder)} is not a folder")
        aside: list[str] = []
        classes: dict[str, list[str]] = defaultdict(list)
        loose: list[str] = []
        for entry in _entries(folder, "", aside):
            if _has_folder(entry):
                classes[composed(entry.name)].append(entry.name)
            else:
                loose.append(entry.name)
        if not classes:
            raise ValueError(f"{shown(folder)} has no class folders ({len(loose)} files lie in it directly)")
        return cls(folder, dict(classes), sorted(loose), aside)

    def scan(self, class_names: Iterable[str]) -> FileSplit:
        """Every file below the class folders."""
        names: list[str] = []
        labels: list[int] = []
        aside = list(self.aside)
        for label, class_name in enumerate(class_names):
            seen: set[tuple[int, int]] = set()
            folders = self.classes.get(class_name, ())
            found = sorted(name for below in folders for name in _files(self.folder, below, seen, aside))
            names += found
            labels += [label] * len(found)
        return FileSplit(self.folder, np.array(labels, dtype=np.int64), names, self.loose, sorted(aside))


def _entries(folder: Path, below: str, aside: list[str]) -> list[os.DirEntry[str]]:
    """What is in folder/below; the names of litter go to `aside`."""
    kept: list[os.DirEntry[str]] = []
    try:
        with os.scandir(folder / below) as entries:
            for entry in entries:
                if _LITTER.fullmatch(entry.name):
                    aside.append(f"{below}/{entry.name}".lstrip("/"))
                else:
                    kept.append(entry)
    except OSError as error:
        if machine_fault(error):
            raise
        raise ValueError(f"folder {shown(folder / below)} cannot be read ({error.strerror})") from None
    return kept


def _has_folder(entry: Path | os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one; a link that leads nowhere or in a circle is a file that is none."""
    try:
        return entry.is_dir()
    except OSError as error:
        if machine_fault(error):
            raise
        return False


def _files(folder: Path, below: str, seen: set[tuple[int, int]], aside: list[str]) -> list[str]:
    """Names, relative to `folder`, of the files under folder/below; links are followed, loops of links are not."""
    if below.count("/") > _DEEPEST:
        raise ValueError(f"{shown(folder / below)} lies {_DEEPEST} folders deep in its class; fewer are allowed")
    litter: list[str] = []
    entries = _entries(folder, below, litter)
    status = (folder / below).stat()
    if (status.st_dev, status.st_ino) in seen:
        return []
    seen.add((status.st_dev, status.st_ino))
    aside += litter
    found: list[str] = []
    for entry in entries:
        name = f"{below}/{entry.name}"
        found += _files(folder, name, seen, aside) if _has_folder(entry) else [name]
    return found
