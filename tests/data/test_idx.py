"""The IDX reader takes what is exact and refuses everything else."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from attndistill.data.idx import idx_split, read_idx

ARRAY = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
GOOD = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2, 3, 4) + ARRAY.tobytes()


def test_an_array_makes_the_round_trip_plain_and_gzipped(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(GOOD)
    (tmp_path / "a.gz").write_bytes(gzip.compress(GOOD))
    for name in ("a", "a.gz"):
        np.testing.assert_array_equal(read_idx(tmp_path / name, 3), ARRAY)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "starts with nothing"),
        (b"\0\0\x08", "starts with 00 00 08;"),
        (b"\1" + GOOD[1:], "starts with 01 00 08 03; IDX unsigned bytes of 3 dimensions start with 00 00 08 03"),
        (b"\0\0\x0d" + GOOD[3:], "starts with 00 00 0d 03"),
        (bytes([0, 0, 8, 1]) + GOOD[4:], "starts with 00 00 08 01"),
        (GOOD[:10], "ends within its header"),
        (GOOD[:-1], "claims 2 x 3 x 4 = 24 values and holds 23"),
        (GOOD + b"x", "claims 2 x 3 x 4 = 24 values and holds more than 24"),
        (GOOD[:4] + b"\xff" * 12 + GOOD[16:], "claims 79228162458924105385300197375 values; at most"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_file_that_is_not_exactly_idx_is_refused(tmp_path: Path, data: bytes, message: str, suffix: str) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(gzip.compress(data) if suffix else data)
    with pytest.raises(ValueError, match=message):
        read_idx(path, 3)


@pytest.mark.parametrize("change", [lambda data: data[:-5], lambda data: b"x" + data, lambda data: data + b"trailing"])
def test_a_damaged_gzip_is_refused(tmp_path: Path, change) -> None:
    (tmp_path / "a.gz").write_bytes(change(gzip.compress(GOOD)))
    with pytest.raises(ValueError, match=r"a\.gz cannot be read"):
        read_idx(tmp_path / "a.gz", 3)


def test_a_gzip_that_would_fill_the_memory_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(GOOD[:4] + struct.pack(">3I", 2**10, 2**9, 2**9) + bytes(2**24)))
    with pytest.raises(ValueError, match=r"claims 268435456 values; a file of images of its length holds \d+ at most"):
        read_idx(tmp_path / "a.gz", 3)


def test_the_names_that_some_archives_give_the_files_are_found_too(tmp_path: Path) -> None:
    (tmp_path / "t10k-images.idx3-ubyte").write_bytes(GOOD)
    (tmp_path / "t10k-labels.idx1-ubyte.gz").write_bytes(
        gzip.compress(bytes([0, 0, 8, 1]) + struct.pack(">I", 2) + b"\0\1")
    )
    assert idx_split(tmp_path, "test", "t10k").labels.tolist() == [0, 1]


def test_a_flipped_bit_in_a_gzip_is_noticed(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(GOOD))
    data[-6] ^= 1  # in the checksum
    (tmp_path / "a.gz").write_bytes(data)
    with pytest.raises(ValueError, match="cannot be read: CRC check failed"):
        read_idx(tmp_path / "a.gz", 3)


def test_images_and_labels_must_be_as_many(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(GOOD)
    with pytest.raises(ValueError, match=r"has neither train-labels-idx1-ubyte nor train-labels-idx1-ubyte\.gz"):
        idx_split(tmp_path, "train", "train")
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1]) + struct.pack(">I", 3) + b"\0\1\0")
    with pytest.raises(ValueError, match="2 train images and 3 labels do not belong together"):
        idx_split(tmp_path, "train", "train")


DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_debians_fashion_mnist_is_read() -> None:
    split = idx_split(DEBIAN, "test", "t10k")
    assert np.bincount(split.labels).tolist() == [1000] * 10
    assert split.image(0).shape == (28, 28, 3)
    assert split.names[9999] == "test-09999"
