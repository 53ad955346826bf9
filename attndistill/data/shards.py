"""Images that are kept as the files they came in, decoded on demand: those of a prepared set's shards."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from attndistill.core.reading import machine_fault
from attndistill.core.words import shown
from attndistill.data.arrays import read_array
from attndistill.data.decoding import decoded, upright_sides
from attndistill.data.shard_writer import SHARD_ENTRY, shard_path
from attndistill.data.views import EXACT, Boxes, Pixels

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

# B batch, S side of the view


class EncodedImages:
    """Image files, decoded when asked for by whoever asks (a loader worker, as a rule).

    Crops are cut, resized (antialiased bicubic) and mirrored on 8-bit pictures, as torchvision does with PIL images.
    """

    labels: NDArray[np.int64]
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.labels)

    def crops(
        self, indices: NDArray[np.int64], boxes: Boxes, image_size: int, pixels: Pixels = EXACT
    ) -> "Float[Tensor, 'B 3 S S']":
        """See `ImageSet.crops`."""
        from attndistill.data.resampling import by_pillow, by_torch, one_by_one

        cuts = (self._cut(index, boxes, row, image_size, pixels) for row, index in enumerate(indices.tolist()))
        return one_by_one(cuts, boxes.flip, image_size, by_torch if pixels.resampling == "uint8" else by_pillow)

    def _cut(self, index: int, boxes: Boxes, row: int, image_size: int, pixels: Pixels) -> NDArray[np.uint8]:
        """A crop before it is resampled: cut first, so that no pixel outside of it gets into the filter."""
        picture, shrunk = self._picture(index, pixels.shrink(boxes.height[row], boxes.width[row], image_size))
        return picture[boxes.place(row, shrunk)]

    def _picture(self, index: int, shrink: int) -> tuple[NDArray[np.uint8], int]:
        """The picture at 1/`shrink` of its sides where its format can be decoded so, and the part that it was."""
        raise NotImplementedError


class ShardImages(EncodedImages):
    """The images of one split of a prepared data set."""

    def __init__(self, directory: Path, split: str, labels: NDArray[np.int64], names: Sequence[str]) -> None:
        """Raises ValueError when index, labels, names and shards do not belong together."""
        self.directory, self.split, self.labels, self.names = directory, split, labels, names
        self._index = read_array(self._index_path)
        if self._index.dtype != SHARD_ENTRY or not self._index.shape == (len(labels),) == (len(names),):
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
        with shard_path(self.directory, self.split, int(entry["shard"])).open("rb", buffering=0) as file:
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
                self._check_sides(index, upright_sides(data))
        return digest.hexdigest()

    def _picture(self, index: int, shrink: int) -> tuple[NDArray[np.uint8], int]:
        with self._naming(index):
            picture, shrunk = decoded(self.encoded(index), shrink)
            self._check_sides(index, picture.shape[:2], shrunk)
        return picture, shrunk

    def _check_sides(self, index: int, sides: tuple[int, ...], shrunk: int = 1) -> None:
        wanted = tuple(-(-int(self._index[index][side]) // shrunk) for side in ("height", "width"))
        if sides != wanted:
            raise ValueError(f"{sides[0]} x {sides[1]} pixels, the index says {wanted[0]} x {wanted[1]}")

    @contextmanager
    def _naming(self, index: int) -> Iterator[None]:
        """Name the image that cannot be decoded, or is another one than was prepared."""
        try:
            yield
        except Exception as error:
            if machine_fault(error):
                raise
            path = shard_path(self.directory, self.split, int(self._index[index]["shard"]))
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
            path = shard_path(self.directory, self.split, int(shard[last]))
            wanted, found = int(offset[last] + length[last]), path.stat().st_size if path.exists() else 0
            if wanted != found:
                raise ValueError(f"{path} has {found} bytes, the index says {wanted}; run prepare again")
