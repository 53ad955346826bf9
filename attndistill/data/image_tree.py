"""Trees of image files, one folder a class, as ImageNet-1K is laid out.

Names that start with a dot are not looked at. Every other file below a class folder counts as an image; one that is
none is found by `prepare` and named there, never passed over.
"""

import os
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
    return Source(tuple(class_names), {"train": everything.subset(train), "test": everything.subset(test)})


def _class_folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    class_names = sorted(entry.name for entry in entries if entry.is_dir())
    if not class_names:
        raise ValueError(f"{folder} has no class folders ({len(entries)} files lie in it directly)")
    return class_names


def _scan(folder: Path, class_names: list[str]) -> FileSplit:
    names: list[str] = []
    labels: list[int] = []
    for label, class_name in enumerate(class_names):
        found = sorted(_files(folder, class_name, set()))
        names += found
        labels += [label] * len(found)
    return FileSplit(folder, np.array(labels, dtype=np.int64), names)


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
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = f"{below}/{entry.name}"
            found += _files(folder, name, seen) if entry.is_dir() else [name]
    return found
