"""IDX, the file format of MNIST and its relatives, plain or gzipped; a strict reader.

Two zero bytes, a type (8: unsigned byte, the only one these sets use), the number of dimensions, each size as a
big-endian 32-bit number, then the values, last dimension fastest (https://yann.lecun.com/exdb/mnist/).
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from attndistill.core.reading import machine_fault, regular_file
from attndistill.core.words import shown
from attndistill.data.sources import ArraySplit

_UNSIGNED_BYTE = 8
_MOST_BYTES = 2**30
_MOST_RATIO, _FREE = 100, 2**26  # pictures compress 10 : 1 or less; blank ones of some megabytes are let pass


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes.

    Args:
        path: the file; .gz is decompressed.
        dimensions: how many the array must have.

    Raises:
        ValueError: the file is missing, of another type, cut short, longer than its header says, or would take more
            memory than an image set of its size.
    """
    try:
        with regular_file(path, at_most=2 * _MOST_BYTES) as file:
            size = path.stat().st_size
            if path.suffix != ".gz":
                return _array(path, file, dimensions, size)
            with gzip.open(file) as plain:
                return _array(path, cast(BinaryIO, plain), dimensions, _MOST_RATIO * size + _FREE)
    except (OSError, EOFError, zlib.error) as error:
        if machine_fault(error):
            raise
        raise ValueError(f"{shown(path)} cannot be read: {shown(error)}") from None


def _array(path: Path, file: BinaryIO, dimensions: int, most: int) -> NDArray[np.uint8]:
    """The array in an open file that can hold at most `most` bytes."""
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
    if wanted > most:
        raise ValueError(f"{path} claims {wanted} values; a file of images of its length holds {most} at most")
    values = np.empty(wanted + 1, np.uint8)  # one more: the end of the file is part of the format
    found = 0
    while count := file.readinto(values[found:].data):  # type: ignore[attr-defined]
        found += count
    if found != wanted:
        held = f"{found}" if found < wanted else f"more than {wanted}"
        raise ValueError(f"{path} claims {' x '.join(map(str, shape))} = {wanted} values and holds {held}")
    return values[:wanted].reshape(shape)


def idx_split(root: Path, split: str, prefix: str) -> ArraySplit:
    """Images and labels of `prefix` ("train", "t10k") under their usual names. Raises ValueError (see `read_idx`)."""
    images = read_idx(_existing(root, prefix, "images", 3), 3)
    labels = read_idx(_existing(root, prefix, "labels", 1), 1)
    if len(images) != len(labels):
        raise ValueError(f"{root}: {len(images)} {prefix} images and {len(labels)} labels do not belong together")
    names = [f"{split}-{position:05d}" for position in range(len(labels))]
    return ArraySplit(labels.astype(np.int64), names, lambda i: np.repeat(images[i][:, :, None], 3, axis=2))


def _existing(root: Path, prefix: str, what: str, dimensions: int) -> Path:
    """The published name, or with a dot for its last dash, as some archives have it."""
    stems = [f"{prefix}-{what}{joint}idx{dimensions}-ubyte" for joint in "-."]
    names = [f"{stem}{suffix}" for stem in stems for suffix in ("", ".gz")]
    for name in names:
        if _has(root / name):
            return root / name
    raise ValueError(f"{shown(root)} has neither {names[0]} nor {names[1]} (nor the like with .idx)")


def _has(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # a name too long
        if machine_fault(error):
            raise
        return False
