"""torchvision's named sets that come with a train and a test split.

Sets of image files hand out paths (by their public `loader` argument), so `prepare` sees the original bytes. Where a
set has train, val and test parts, train and val together are the training split, as transfer results are reported.
torchvision unpickles CIFAR only after it has checked the files against the published MD5 sums.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attndistill.core.reading import machine_fault
from attndistill.core.words import shown
from attndistill.data.sources import ArraySplit, FileSplit, Source, Split

_Parts = tuple[dict[str, Any], ...]
_BOOLEAN: dict[str, _Parts] = {"train": ({"train": True},), "test": ({"train": False},)}
_TWO: dict[str, _Parts] = {"train": ({"split": "train"},), "test": ({"split": "test"},)}
_TRAINVAL: dict[str, _Parts] = {"train": ({"split": "trainval"},), "test": ({"split": "test"},)}
_THREE: dict[str, _Parts] = {"train": ({"split": "train"}, {"split": "val"}), "test": ({"split": "test"},)}
_VAL: dict[str, _Parts] = {"train": ({"split": "train"},), "test": ({"split": "val"},)}

ARRAYS = {
    "CIFAR10": _BOOLEAN,
    "CIFAR100": _BOOLEAN,
    "FashionMNIST": _BOOLEAN,
    "KMNIST": _BOOLEAN,
    "MNIST": _BOOLEAN,
    "STL10": _TWO,
    "SVHN": _TWO,
}
FILES = {
    "DTD": _THREE,
    "FGVCAircraft": _TRAINVAL,
    "Flowers102": _THREE,
    "Food101": _TWO,
    "Imagenette": _VAL,
    "OxfordIIITPet": _TRAINVAL,
    "StanfordCars": _TWO,
}


def torchvision_source(name: str, root: Path, download: bool) -> Source:
    """A named set. Raises ValueError when it is not under `root` (or its download fails)."""
    splits, class_names = {}, None
    for split, parts in (ARRAYS | FILES)[name].items():
        sets = [_construct(name, root, download, options) for options in parts]
        splits[split] = _array_split(sets[0], split) if name in ARRAYS else _file_split(sets, root)
        class_names = class_names or _class_names(sets[0])
    labels = np.concatenate([part.labels for part in splits.values()])
    return Source(class_names or tuple(map(str, range(int(labels.max()) + 1))), splits)


def _construct(name: str, root: Path, download: bool, options: dict[str, Any]) -> Any:
    from torchvision import datasets

    # OxfordIIITPet alone has no `loader`; see `_file_split`.
    loader = {"loader": str} if name in FILES and name != "OxfordIIITPet" else {}
    if download:
        root.mkdir(parents=True, exist_ok=True)
    if name == "Imagenette" and download and (root / "imagenette2").is_dir():
        download = False  # this set refuses to find itself already there
    try:
        return getattr(datasets, name)(str(root), download=download, **options, **loader)
    except (RuntimeError, OSError, EOFError, KeyError) as error:
        if machine_fault(error):
            raise
        raise ValueError(f"torchvision's {name} under {shown(root)}: {shown(error)}") from None


def _array_split(dataset: Any, split: str) -> Split:
    def image(position: int) -> NDArray[np.uint8]:
        return np.asarray(dataset[position][0].convert("RGB"))

    labels = np.asarray(dataset.targets if hasattr(dataset, "targets") else dataset.labels).astype(np.int64)
    return ArraySplit(labels, [f"{split}-{position:06d}" for position in range(len(labels))], image)


def _file_split(sets: list[Any], root: Path) -> Split:
    found: list[tuple[str, int]] = []
    for dataset in sets:
        if hasattr(dataset, "loader"):
            found += [dataset[position] for position in range(len(dataset))]
        else:
            found += list(zip(map(str, dataset._images), dataset._labels, strict=True))
    names = [Path(path).relative_to(root).as_posix() for path, _ in found]
    return FileSplit(root, np.array([label for _, label in found], dtype=np.int64), names)


def _class_names(dataset: Any) -> tuple[str, ...] | None:
    """The set's own names; ImageNet's identifiers where it has those; None where it names no classes (SVHN)."""
    names = getattr(dataset, "wnids", None) or getattr(dataset, "classes", None)
    return None if names is None else tuple(map(str, names))
