"""IDX, the file format of MNIST and its relatives, plain or gzipped; a strict reader.

Two zero bytes, a type (8: unsigned byte, the only one these sets use), the number of dimensions, each size as a
big-endian 32-bit number, then the values, last dimension fastest (https://yann.lecun.com/exdb/mnist/).
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attndistill.data.sources import ArraySplit

_UNSIGNED_BYTE = 8
_MOST_BYTES = 2**32


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes.

    Args:
        path: the file; .gz is decompressed.
        dimensions: how many the array must have.

    Raises:
        ValueError: the file is missing, of another type, cut short, or longer than its header says.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            header = file.read(4)
            if len(header) < 4 or header[:2] != b"\0\0" or header[2:] != bytes([_UNSIGNED_BYTE, dimensions]):
                raise ValueError(
                    f"{path} starts with {header.hex(' ') or 'nothing'}; "
                    f"IDX unsigned bytes of {dimensions} dimensions start with 00 00 08 {dimensions:02x}"
                )
            sizes = file.read(4 * dimensions)
            if len(sizes) < 4 * dimensions:
                raise ValueError(f"{path} ends within its header")
            shape = struct.unpack(f">{dimensions}I", sizes)
            wanted = math.prod(shape)
            if wanted > _MOST_BYTES:
                raise ValueError(f"{path} claims {wanted} values; at most {_MOST_BYTES} are read")
            values = file.read(wanted + 1)  # one more: the end of the file is part of the format
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if len(values) != wanted:
        found = f"{len(values)}" if len(values) < wanted else f"more than {wanted}"
        raise ValueError(f"{path} claims {' x '.join(map(str, shape))} = {wanted} values and holds {found}")
    return np.frombuffer(values, np.uint8).reshape(shape)


def idx_split(root: Path, split: str, prefix: str) -> ArraySplit:
    """Images and labels of `prefix` ("train", "t10k") under their usual names. Raises ValueError (see `read_idx`)."""
    images = read_idx(_existing(root, f"{prefix}-images-idx3-ubyte"), 3)
    labels = read_idx(_existing(root, f"{prefix}-labels-idx1-ubyte"), 1)
    if len(images) != len(labels):
        raise ValueError(f"{root}: {len(images)} {prefix} images and {len(labels)} labels do not belong together")
    names = [f"{split}-{position:05d}" for position in range(len(labels))]
    return ArraySplit(labels.astype(np.int64), names, lambda i: np.repeat(images[i][:, :, None], 3, axis=2))


def _existing(root: Path, stem: str) -> Path:
    for path in (root / stem, root / f"{stem}.gz"):
        if path.exists():
            return path
    raise ValueError(f"{root} has neither {stem} nor {stem}.gz")
