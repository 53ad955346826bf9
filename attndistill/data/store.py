"""The stored form of a data set: what `prepare` writes and every later stage opens.

Two containers. Small sets are *arrays*: one uint8 (N, H, W, 3) file, memory-mapped. Large or uneven sets are *shards*:
the original encoded files, concatenated, decoded on demand (`attndistill.data.shards`). Either way DVC sees a handful
of files, never one per image.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from attndistill.core.reading import read_text
from attndistill.core.words import shown
from attndistill.data.arrays import read_array
from attndistill.data.manifest import Manifest, SplitEntry
from attndistill.data.shards import ShardImages
from attndistill.data.splits import stratified_subset
from attndistill.data.views import EXACT, Boxes, Pixels

if TYPE_CHECKING:  # who only looks at what is stored needs no torch
    from jaxtyping import Float
    from torch import Tensor

# B batch, S side of the view

_MOST_NAME_BYTES = 2**32
_AGAIN = "run prepare again"


class ImageSet(Protocol):
    """The images of one split, addressed by index."""

    labels: NDArray[np.int64]
    names: Sequence[str]

    def __len__(self) -> int: ...

    def sizes(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Heights and widths of the stored images, in pixels."""
        ...

    def crops(
        self, indices: NDArray[np.int64], boxes: Boxes, image_size: int, pixels: Pixels = EXACT
    ) -> "Float[Tensor, 'B 3 S S']":
        """One resampled RGB crop per index, float32 in [0, 1]."""
        ...


class ArrayImages:
    """Images of one size, in one memory-mapped array."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64], names: Sequence[str]) -> None:
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise ValueError(f"images must be uint8 (N, H, W, 3), not {images.dtype} {images.shape}")
        if not len(images) == len(labels) == len(names):
            raise ValueError(
                f"{len(images)} images, {len(labels)} labels and {len(names)} names do not belong together"
            )
        self.images, self.labels, self.names = images, labels, names
        self._file: Path | None = None

    @classmethod
    def mapped(cls, file: Path, labels: NDArray[np.int64], names: Sequence[str]) -> "ArrayImages":
        """The images of one .npy file, memory-mapped."""
        images = cls(read_array(file, mapped=True), labels, names)
        images._file = file
        return images

    def __getstate__(self) -> dict[str, Any]:
        # A spawned worker maps the file itself; pickling a map would send it a copy of all images.
        return self.__dict__ if self._file is None else {**self.__dict__, "images": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        if self._file is not None:
            self.images = read_array(self._file, mapped=True)

    def __len__(self) -> int:
        return len(self.labels)

    def sizes(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        height, width = self.images.shape[1:3]
        return np.full(len(indices), height, np.int64), np.full(len(indices), width, np.int64)

    def crops(
        self, indices: NDArray[np.int64], boxes: Boxes, image_size: int, pixels: Pixels = EXACT
    ) -> "Float[Tensor, 'B 3 S S']":
        from attndistill.data.resampling import crop_and_resize

        return crop_and_resize(np.ascontiguousarray(self.images[indices]), boxes, image_size, pixels.resampling)


class ChosenImages:
    """Some images of a set, as a set of their own; position p is image `chosen[p]`.

    Args:
        images: the set.
        chosen: positions in it.
    """

    def __init__(self, images: ImageSet, chosen: NDArray[np.int64]) -> None:
        self.images, self.chosen = images, chosen
        self.labels: NDArray[np.int64] = np.asarray(images.labels)[chosen]
        self.names: Sequence[str] = [images.names[index] for index in chosen]

    def __len__(self) -> int:
        return len(self.chosen)

    def sizes(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self.images.sizes(self.chosen[indices])

    def crops(
        self, indices: NDArray[np.int64], boxes: Boxes, image_size: int, pixels: Pixels = EXACT
    ) -> "Float[Tensor, 'B 3 S S']":
        return self.images.crops(self.chosen[indices], boxes, image_size, pixels)


def validation_indices(directory: Path) -> NDArray[np.int64]:
    """The part of a prepared set's train on which hyper-parameters are chosen. Raises ValueError as `open_split`."""
    manifest = Manifest.read(directory)
    path = directory / "train-validation.npy"
    chosen = read_array(path)
    _check_vector(path, chosen, manifest.validation.count)
    if (np.diff(chosen) < 1).any() or chosen[0] < 0 or chosen[-1] >= manifest.splits["train"].count:
        raise ValueError(f"{path}: positions must ascend from 0 to below {manifest.splits['train'].count}; {_AGAIN}")
    return chosen


def open_split(directory: Path, split: str) -> ImageSet:
    """Open one split ("train", "test") of a prepared data set.

    Types, sizes, labels and names are held against the manifest; the images themselves only by `verify_data`.

    Raises:
        ValueError: in one line, naming the file that is missing, broken or another than the manifest says.
    """
    manifest = Manifest.read(directory)
    if split not in manifest.splits:
        raise ValueError(f"{directory} has no split {split!r}; it has {', '.join(manifest.splits)}")
    entry = manifest.splits[split]
    labels = _labels(directory / f"{split}-labels.npy", entry, manifest.class_names)
    names = _names(directory / f"{split}-names.txt", entry)
    if manifest.container == "shards":
        shards = ShardImages(directory, split, labels, names)
        for field in ("bytes", "shards"):
            _hold(directory / f"{split}-index.npy", field, getattr(shards, field), getattr(entry, field))
        return shards
    arrays = ArrayImages.mapped(directory / f"{split}-images.npy", labels, names)
    _hold(directory / f"{split}-images.npy", "image_shape", list(arrays.images.shape[1:]), entry.image_shape)
    return arrays


def verify_data(directory: Path) -> None:
    """Read every file of a prepared data set, and hold it against the manifest's digests.

    Raises:
        ValueError: as `open_split`; or an image, a size or a validation part that is another than was prepared.
    """
    manifest = Manifest.read(directory)
    for split, entry in manifest.splits.items():
        images = open_split(directory, split)
        if isinstance(images, ShardImages):
            _hold(directory / f"{split}-shard-*.bin", "images_sha256", images.digest(), entry.images_sha256)
        elif isinstance(images, ArrayImages):
            _hold(directory / f"{split}-images.npy", "images_sha256", _digest(images), entry.images_sha256)
    labels = read_array(directory / "train-labels.npy")
    options = manifest.validation
    drawn = stratified_subset(labels, options.fraction, options.seed, "validation", leave_one=True)
    if not np.array_equal(validation_indices(directory), drawn):
        raise ValueError(
            f"{directory / 'train-validation.npy'}: its positions are not those of validation.fraction and "
            f"validation.seed in the manifest; {_AGAIN}"
        )


def _labels(path: Path, entry: SplitEntry, class_names: Sequence[str]) -> NDArray[np.int64]:
    labels = read_array(path)
    _check_vector(path, labels, entry.count)
    if labels.min() < 0 or labels.max() >= len(class_names):
        raise ValueError(f"{path}: labels of {labels.min()} to {labels.max()}, of {len(class_names)} classes; {_AGAIN}")
    _hold(path, "labels_sha256", hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest(), entry.labels_sha256)
    counts = dict(zip(class_names, np.bincount(labels, minlength=len(class_names)).tolist(), strict=True))
    _hold(path, "per_class", counts, entry.per_class)
    return labels


def _names(path: Path, entry: SplitEntry) -> list[str]:
    try:
        text = read_text(path, at_most=_MOST_NAME_BYTES)
    except ValueError as error:
        raise ValueError(f"{error}; {_AGAIN}") from None
    names = text.splitlines()
    _hold(path, "count", len(names), entry.count)
    _hold(path, "names_sha256", hashlib.sha256(text.encode()).hexdigest(), entry.names_sha256)
    return names


def _check_vector(path: Path, array: NDArray[Any], count: int) -> None:
    if array.dtype != np.int64 or array.shape != (count,):
        raise ValueError(f"{path}: {array.dtype} {array.shape}, the manifest says int64 ({count},); {_AGAIN}")


def _digest(images: ArrayImages) -> str:
    digest = hashlib.sha256()
    for image in images.images:
        digest.update(image.tobytes())
    return digest.hexdigest()


def _hold(path: Path, field: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise ValueError(f"{path}: its {field} is {shown(found, 80)}, the manifest says {shown(wanted, 80)}; {_AGAIN}")
