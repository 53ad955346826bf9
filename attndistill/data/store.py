"""The stored form of a data set: what `prepare` writes and every later stage opens.

Two containers. Small sets are *arrays*: one uint8 (N, H, W, 3) file, memory-mapped. Large or uneven sets are *shards*:
the original encoded files, concatenated, decoded on demand (`attndistill.data.shards`). Either way DVC sees a handful
of files, never one per image.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from attndistill.core.artifacts import read_json
from attndistill.data.arrays import read_array
from attndistill.data.resampling import crop_and_resize
from attndistill.data.shards import ShardImages
from attndistill.data.views import Boxes

# B batch, S side of the view

FORMAT = "attndistill-data/1"


class ImageSet(Protocol):
    """The images of one split, addressed by index."""

    labels: NDArray[np.int64]
    names: Sequence[str]

    def __len__(self) -> int: ...

    def sizes(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Heights and widths of the stored images, in pixels."""
        ...

    def crops(self, indices: NDArray[np.int64], boxes: Boxes, image_size: int) -> Float[Tensor, "B 3 S S"]:
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

    def crops(self, indices: NDArray[np.int64], boxes: Boxes, image_size: int) -> Float[Tensor, "B 3 S S"]:
        return crop_and_resize(np.ascontiguousarray(self.images[indices]), boxes, image_size)


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

    def crops(self, indices: NDArray[np.int64], boxes: Boxes, image_size: int) -> Float[Tensor, "B 3 S S"]:
        return self.images.crops(self.chosen[indices], boxes, image_size)


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a prepared data set. Raises ValueError when it is missing or of another format."""
    manifest: dict[str, Any] = read_json(directory / "manifest.json")
    if manifest.get("format") != FORMAT:
        raise ValueError(f"{directory}: data format {manifest.get('format')!r}; this version reads {FORMAT!r}")
    return manifest


def validation_indices(directory: Path) -> NDArray[np.int64]:
    """The part of a prepared set's train on which hyper-parameters are chosen. Raises ValueError as `open_split`."""
    return read_array(directory / "train-validation.npy")


def _names(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); run prepare again") from None


def open_split(directory: Path, split: str) -> ImageSet:
    """Open one split ("train", "test") of a prepared data set. Raises ValueError naming what is missing or broken."""
    manifest = read_manifest(directory)
    if split not in manifest["splits"]:
        raise ValueError(f"{directory} has no split {split!r}; it has {', '.join(manifest['splits'])}")
    labels = read_array(directory / f"{split}-labels.npy")
    names = _names(directory / f"{split}-names.txt")
    if len(labels) != manifest["splits"][split]["count"]:
        raise ValueError(
            f"{directory}: {len(labels)} labels of {split}, the manifest says "
            f"{manifest['splits'][split]['count']}; run prepare again"
        )
    if manifest["container"] == "shards":
        return ShardImages(directory, split, labels, names)
    return ArrayImages.mapped(directory / f"{split}-images.npy", labels, names)
