"""Trees of image files, one folder a class, as ImageNet-1K is laid out.

Names that start with a dot are not looked at. Every other file below a class folder counts as an image; one that is
none, or that lies beside the class folders, is named by `prepare`, never passed over.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from attndistill.data.sources import FileSplit, Source
from attndistill.data.splits import train_test_split

_TEST_FOLDERS = ("val", "test")


def split_tree(root: Path, test_folder: str | None) -> Source:
    """root/train/<class>/... and root/val or root/test. Raises ValueError when a folder is missing or ambiguous."""
    if not (root / "train").is_dir():
        raise ValueError(
            f"{root} has no folder 'train'; give a tree with train and val (or test) folders, or for a tree of class "
            f"folders alone a test_fraction"
        )
    found = [name for name in ([test_folder] if test_folder else _TEST_FOLDERS) if (root / name).is_dir()]
    if len(found) != 1:
        has = f"both {' and '.join(found)}" if found else f"none of {', '.join([test_folder or 'val, test'])}"
        raise ValueError(f"{root} has {has} to test on; name the folder with test_folder")
    folders = {"train": root / "train", "test": root / found[0]}
    class_names = sorted({name for folder in folders.values() for name in _class_folders(folder)})
    return Source(tuple(class_names), {split: _scan(folder, class_names) for split, folder in folders.items()})


def unsplit_tree(root: Path, test_fraction: float, split_seed: int) -> Source:
    """root/<class>/..., cut into a stratified train and test part."""
    if (root / "train").is_dir():
        raise ValueError(f"{root} has a folder 'train': a test_fraction is for trees that are not split already")
    class_names = _class_folders(root)
    everything = _scan(root, class_names)
    train, test = train_test_split(everything.labels, test_fraction, split_seed)
    splits = {"train": everything.subset(train), "test": replace(everything.subset(test), loose=())}
    return Source(tuple(class_names), splits)


def _class_folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    entries = _entries(folder)
    class_names = sorted(entry.name for entry in entries if _is_folder(entry))
    if not class_names:
        raise ValueError(f"{folder} has no class folders ({len(entries)} files lie in it directly)")
    return class_names


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise ValueError(f"folder {folder} cannot be read ({error.strerror})") from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one; a link that leads nowhere or in a circle is a file that is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _scan(folder: Path, class_names: list[str]) -> FileSplit:
    names: list[str] = []
    labels: list[int] = []
    for label, class_name in enumerate(class_names):
        found = sorted(_files(folder, class_name, set()))
        names += found
        labels += [label] * len(found)
    loose = sorted(entry.name for entry in _entries(folder) if not _is_folder(entry))
    return FileSplit(folder, np.array(labels, dtype=np.int64), names, loose)


def _files(folder: Path, below: str, seen: set[tuple[int, int]]) -> list[str]:
    """Names, relative to `folder`, of the files under folder/below; links are followed, loops of links are not."""
    directory = folder / below
    if not directory.is_dir():
        return []
    status = directory.stat()
    if (status.st_dev, status.st_ino) in seen:
        return []
    seen.add((status.st_dev, status.st_ino))
    found: list[str] = []
    for entry in _entries(directory):
        name = f"{below}/{entry.name}"
        found += _files(folder, name, seen) if _is_folder(entry) else [name]
    return found
