"""The registered data sets. Each returns a `Source`; nothing is decoded or copied until `prepare` asks.

Every labelled set takes `class_list`, a file with one class name a line that restricts and orders the classes.
"""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from attndistill.data import DATASETS
from attndistill.data.idx import idx_split
from attndistill.data.image_tree import split_tree, unlabelled_photos, unsplit_tree
from attndistill.data.sources import UNLABELLED, ArraySplit, Source
from attndistill.data.splits import train_test_split
from attndistill.data.torchvision_sets import torchvision_source


@DATASETS.register("digits")
def digits(
    *,
    size: Annotated[int, Field(ge=8, le=512)] = 32,
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.3,
    split_seed: Annotated[int, Field(ge=0)] = 0,
    class_list: str | None = None,
) -> Source:
    """scikit-learn's 1,797 real handwritten digits (UCI), 8x8 grey, enlarged with bicubic interpolation; works offline.

    Args:
        size: side of the stored images in pixels.
        test_fraction: share of every class that becomes the test split.
        split_seed: key of that split.
        class_list: file of class names ("0" to "9").
    """
    from PIL import Image

    pictures, labels = _scikit_learns_digits()
    grey = np.rint(pictures * (255 / 16)).astype(np.uint8)

    def image(position: int) -> NDArray[np.uint8]:
        enlarged = Image.fromarray(grey[position]).resize((size, size), Image.Resampling.BICUBIC)
        return np.asarray(enlarged.convert("RGB"))

    everything = ArraySplit(labels, [f"digit-{i:04d}" for i in range(len(labels))], image)
    train, test = train_test_split(labels, test_fraction, split_seed)
    splits = {"train": everything.subset(train), "test": everything.subset(test)}
    return Source(tuple("0123456789"), splits).restricted_to(class_list)


def _scikit_learns_digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(N, 8, 8) from 0 to 16, and labels: the file behind `load_digits`, without importing scikit-learn (a second)."""
    found = find_spec("sklearn")
    assert found is not None
    assert found.origin is not None
    table = np.loadtxt(Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)


@DATASETS.register("image_folder")
def image_folder(
    *,
    root: str,
    test_folder: str | None = None,
    test_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None,
    split_seed: Annotated[int, Field(ge=0)] = 0,
    class_list: str | None = None,
) -> Source:
    """A tree of image files in ImageNet's layout: root/train/<class>/* and root/val/<class>/* (or test).

    Args:
        root: the tree.
        test_folder: folder of the test split; only needed where both val and test exist.
        test_fraction: for a tree root/<class>/* without a split: the share of every class that becomes the test split.
        split_seed: key of that split.
        class_list: file of class (folder) names.
    """
    tree = Path(root)
    if test_fraction is not None:
        if test_folder is not None:
            raise ValueError("test_folder and test_fraction exclude each other: give the one that fits the tree")
        return unsplit_tree(tree, test_fraction, split_seed).restricted_to(class_list)
    return split_tree(tree, test_folder).restricted_to(class_list)


@DATASETS.register("photos")
def photos(
    *,
    root: str | None = None,
    list_file: str | None = None,
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1,
    split_seed: Annotated[int, Field(ge=0)] = 0,
) -> Source:
    """Unlabelled images: any tree of files, flat or nested, or those that a list names.

    Args:
        root: the tree; where the names of a list start (default: the list's folder).
        list_file: one file a line, in place of the whole tree.
        held_out: share of the images that becomes the test split, which no model is trained on.
        split_seed: key of that split.
    """
    everything = unlabelled_photos(Path(root) if root else None, Path(list_file) if list_file else None)
    train, test = train_test_split(everything.labels, held_out, split_seed)
    splits = {"train": everything.subset(train), "test": replace(everything.subset(test), aside=())}
    return Source(UNLABELLED, splits, labelled=False)


@DATASETS.register("idx")
def idx(*, root: str, class_list: str | None = None) -> Source:
    """The MNIST family's IDX files (train-images-idx3-ubyte and so on, plain or .gz), e.g. Debian's fashion-mnist.

    Args:
        root: folder of the four files.
        class_list: file of class names ("0" to "9": the files name none).
    """
    splits = {"train": idx_split(Path(root), "train", "train"), "test": idx_split(Path(root), "test", "t10k")}
    classes = max(int(split.labels.max(initial=0)) for split in splits.values()) + 1
    return Source(tuple(map(str, range(classes))), splits).restricted_to(class_list)


@DATASETS.register("torchvision")
def torchvision(
    *,
    set_name: Literal[
        "CIFAR10",
        "CIFAR100",
        "DTD",
        "FGVCAircraft",
        "FashionMNIST",
        "Flowers102",
        "Food101",
        "Imagenette",
        "KMNIST",
        "MNIST",
        "OxfordIIITPet",
        "STL10",
        "SVHN",
        "StanfordCars",
    ],
    root: str,
    download: bool = False,
    class_list: str | None = None,
) -> Source:
    """One of torchvision's named sets.

    Args:
        set_name: torchvision's class name.
        root: where torchvision keeps it.
        download: let torchvision fetch what is missing.
        class_list: file of class names as torchvision spells them (Imagenette: the wnids).
    """
    return torchvision_source(set_name, Path(root), download).restricted_to(class_list)
