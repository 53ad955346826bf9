"""Shards: the original image files, concatenated unchanged, with an index of where each lies (`shards` reads them).

DVC, a disk and a network file system then handle dozens of large files instead of a million small ones. Memory holds
the index and the images of one batch, whatever the size of the set.
"""

import hashlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

SHARD_BYTES = 256 * 2**20

SHARD_ENTRY = np.dtype([("shard", "<i4"), ("offset", "<i8"), ("length", "<i8"), ("height", "<i4"), ("width", "<i4")])


def shard_path(directory: Path, split: str, number: int) -> Path:
    """Where a shard lies."""
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
        self._index += np.array((self._number, self._offset, len(data), height, width), SHARD_ENTRY).tobytes()
        self._file.write(data)
        self._offset += len(data)
        self._digest.update(len(data).to_bytes(8, "little"))
        self._digest.update(data)

    def finish(self) -> dict[str, Any]:
        """Write the index. Returns what the manifest says of the split's images."""
        if self._file is not None:
            self._file.close()
        index = np.frombuffer(self._index, SHARD_ENTRY)
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
        self._file = shard_path(self.directory, self.split, self._number).open("wb")
