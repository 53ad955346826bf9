"""Shards: the original image files, concatenated unchanged, with an index of where each lies; decoded on demand.

DVC, a disk and a network file system then handle dozens of large files instead of a million small ones. Memory holds
the index and the images of one batch, whatever the size of the set.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attndistill.core.reading import machine_fault
from attndistill.core.words import shown
from attndistill.data.arrays import read_array
from attndistill.data.decoding import decode, upright_sides

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from attndistill.data.views import Boxes

# B batch, S side of the view

SHARD_BYTES = 256 * 2**20

_ENTRY = np.dtype([("shard", "<i4"), ("offset", "<i8"), ("length", "<i8"), ("height", "<i4"), ("width", "<i4")])


def _shard_path(directory: Path, split: str, number: int) -> Path:
    return directory / f"{split}-shard-{number:05d}.bin"


class ShardWriter:
    """Appends image files to the shards of one split.

    Args:
        directory: where the shards go.
        split: "train", "test".
        shard_bytes: a new shard begins where the next file would pass this size (a larger file gets its own).
    """

    def __init__(self, directory: Path, split: str, shard_bytes: int = SHARD_BYTES) -> None:
        self.directory, self.split, self.shard_bytes = directory, split, shard_bytes
        self._index = bytearray()  # 28 bytes an image, however many
        self._digest = hashlib.sha256()
        self._file: BinaryIO | None = None
        self._number, self._offset = -1, 0

    def add(self, data: bytes, height: int, width: int) -> None:
        """Append one file, whose upright picture is `height` by `width` pixels."""
        if self._file is None or (self._offset and self._offset + len(data) > self.shard_bytes):
            self._next_shard()
        assert self._file is not None
        self._index += np.array((self._number, self._offset, len(data), height, width), _ENTRY).tobytes()
        self._file.write(data)
        self._offset += len(data)
        self._digest.update(len(data).to_bytes(8, "little"))
        self._digest.update(data)

    def finish(self) -> dict[str, Any]:
        """Write the index. Returns what the manifest says of the split's images."""
        if self._file is not None:
            self._file.close()
        index = np.frombuffer(self._index, _ENTRY)
        np.save(self.directory / f"{self.split}-index.npy", index)
        return {
            "images_sha256": self._digest.hexdigest(),
            "shards": self._number + 1,
            "bytes": int(index["length"].sum()),
        }

    def _next_shard(self) -> None:
        if self._file is not None:
            self._file.close()
        self._number, self._offset = self._number + 1, 0
        self._file = _shard_path(self.directory, self.split, self._number).open("wb")


class EncodedImages:
    """Image files, decoded when asked for by whoever asks (a loader worker, as a rule).

    Crops are cut, resized (antialiased bicubic) and mirrored on 8-bit pictures, as torchvision does with PIL images.
    The whole file is decoded for a crop: JPEG's cheaper reduced decoding would change the pixels.
    """

    labels: NDArray[np.int64]
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.labels)

    def crops(self, indices: NDArray[np.int64], boxes: "Boxes", image_size: int) -> "Float[Tensor, 'B 3 S S']":
        """See `ImageSet.crops`."""
        import torch

        pixels = np.empty((len(indices), image_size, image_size, 3), np.uint8)
        for row, index in enumerate(indices):
            top, left = int(boxes.top[row]), int(boxes.left[row])
            box = left, top, left + int(boxes.width[row]), top + int(boxes.height[row])
            # Cut first: resize(box=...) would let pixels outside the crop into the filter.
            cut = self._picture(int(index)).crop(box)
            view = cut.resize((image_size, image_size), Image.Resampling.BICUBIC)
            pixels[row] = np.asarray(view)[:, ::-1] if boxes.flip[row] else np.asarray(view)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32).contiguous() / 255

    def _picture(self, index: int) -> Image.Image:
        raise NotImplementedError


class ShardImages(EncodedImages):
    """The images of one split of a prepared data set."""

    def __init__(self, directory: Path, split: str, labels: NDArray[np.int64], names: Sequence[str]) -> None:
        """Raises ValueError when index, labels, names and shards do not belong together."""
        self.directory, self.split, self.labels, self.names = directory, split, labels, names
        self._index = read_array(self._index_path)
        if self._index.dtype != _ENTRY or not self._index.shape == (len(labels),) == (len(names),):
            raise ValueError(
                f"{directory}: the index of {split} has {len(self._index)} entries for {len(labels)} labels and "
                f"{len(names)} names; run prepare again"
            )
        self._check_shards()

    def sizes(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Heights and widths of the upright pictures, in pixels."""
        chosen = self._index[indices]
        return chosen["height"].astype(np.int64), chosen["width"].astype(np.int64)

    def encoded(self, index: int) -> bytes:
        """The original file."""
        entry = self._index[index]
        # Opened for each read: no handles to carry into workers, and no mapping whose pages count as this process's.
        with _shard_path(self.directory, self.split, int(entry["shard"])).open("rb", buffering=0) as file:
            return os.pread(file.fileno(), int(entry["length"]), int(entry["offset"]))

    @property
    def bytes(self) -> int:
        """Of all files together."""
        return int(self._index["length"].sum())

    @property
    def shards(self) -> int:
        """How many there are."""
        return int(self._index["shard"].max()) + 1

    def digest(self) -> str:
        """The digest that `ShardWriter.finish` gave, of the files as they are; reads all of them.

        Raises:
            ValueError: a picture that has other sides than the index says.
        """
        digest = hashlib.sha256()
        for index in range(len(self)):
            data = self.encoded(index)
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
            with self._naming(index):
                self._check_sides(index, *upright_sides(data))
        return digest.hexdigest()

    def _picture(self, index: int) -> Image.Image:
        with self._naming(index):
            picture = decode(self.encoded(index))
            self._check_sides(index, picture.height, picture.width)
        return picture

    def _check_sides(self, index: int, height: int, width: int) -> None:
        entry = self._index[index]
        if (height, width) != (entry["height"], entry["width"]):
            raise ValueError(f"{height} x {width} pixels, the index says {entry['height']} x {entry['width']}")

    @contextmanager
    def _naming(self, index: int) -> Iterator[None]:
        """Name the image that cannot be decoded, or is another one than was prepared."""
        try:
            yield
        except Exception as error:
            if machine_fault(error):
                raise
            path = _shard_path(self.directory, self.split, int(self._index[index]["shard"]))
            raise ValueError(f"{path}: image {shown(self.names[index])}: {shown(error)}; run prepare again") from None

    @property
    def _index_path(self) -> Path:
        return self.directory / f"{self.split}-index.npy"

    def _check_shards(self) -> None:
        """Files lie one behind the other, and fill their shards."""
        shard, offset, length = (self._index[field] for field in ("shard", "offset", "length"))
        begins = np.diff(shard, prepend=-1)
        expected = np.where(begins[1:] == 1, 0, offset[:-1] + length[:-1])
        sides = np.minimum(self._index["height"], self._index["width"])
        if not np.isin(begins, (0, 1)).all() or begins[0] != 1 or offset[0] or (offset[1:] != expected).any():
            raise ValueError(f"{self._index_path}: files do not lie one behind the other; run prepare again")
        if (length < 1).any() or (sides < 1).any():
            raise ValueError(f"{self._index_path}: a file without bytes or pixels; run prepare again")
        for last in np.append(np.flatnonzero(begins[1:]), len(self._index) - 1):
            path = _shard_path(self.directory, self.split, int(shard[last]))
            wanted, found = int(offset[last] + length[last]), path.stat().st_size if path.exists() else 0
            if wanted != found:
                raise ValueError(f"{path} has {found} bytes, the index says {wanted}; run prepare again")
