"""Files of others: regular, bounded, in one line where not."""

import errno
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from attndistill.core.reading import machine_fault, read_bounded, read_npz, read_text, regular_file


def test_a_file_of_exactly_the_most_bytes_is_read_and_one_more_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bounded(tmp_path / "a", at_most=5) == b"12345"
    with pytest.raises(ValueError, match=r"a: 5 bytes are too many; at most 4 are read"):
        read_bounded(tmp_path / "a", at_most=4)


def test_a_file_that_says_it_is_empty_and_is_not_is_bounded_too() -> None:
    with pytest.raises(ValueError, match="/proc/self/maps: more than 10 bytes"):
        read_bounded(Path("/proc/self/maps"), at_most=10)


@pytest.mark.parametrize(("path", "kind"), [("/dev/zero", "a device"), ("/dev/tty", "a device"), (".", "a folder")])
def test_devices_and_folders_are_named(path: str, kind: str) -> None:
    with pytest.raises(ValueError, match=f"is {kind}, not a regular file"):
        regular_file(Path(path), at_most=10)


def test_a_pipe_that_nobody_writes_to_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 # names of handles, no files
    for _ in range(3):
        with pytest.raises(ValueError, match="pipe is a pipe"):
            read_text(tmp_path / "pipe")
    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_text_of_another_encoding_is_refused_by_its_byte(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match="a is no text in utf-8: unexpected end of data at byte 3"):
        read_text(tmp_path / "a")


def test_the_machines_faults_are_told_from_a_files() -> None:
    assert machine_fault(MemoryError())
    assert machine_fault(OSError(errno.EMFILE, ""))
    assert not machine_fault(OSError(errno.EACCES, ""))
    assert not machine_fault(OSError("image file is truncated"))
    assert not machine_fault(ValueError())


def test_arrays_of_an_archive_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", one=np.arange(6).reshape(2, 3), names=np.array(["x", "yy"]), none=np.zeros((0, 2)))
    found = read_npz(tmp_path / "a.npz")
    assert {name: array.tolist() for name, array in found.items()} == {
        "one": [[0, 1, 2], [3, 4, 5]],
        "names": ["x", "yy"],
        "none": [],
    }


def npy(shape: str, values: bytes, descr: str = "|u1") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + values


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (npy("(200000000,)", bytes(200_000_000)), "it would unpack to 2000000.. bytes"),
        (npy("(10**15,)", b"x"), "."),
        (npy("(1000000000000,)", b"x"), r"a\.npy claims \(1000000000000,\) of uint8 in \d+ bytes"),
        (npy("(-1,)", b"x"), r"a\.npy claims \(-1,\)"),
        (npy("(1,)", b"12345678", "|O"), "Object arrays cannot be loaded"),
        (b"no array", "the magic string is not correct"),
    ],
)
def test_an_archive_that_claims_what_it_does_not_hold_is_refused_and_takes_no_memory(
    tmp_path: Path, data: bytes, message: str
) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("a.npy", data)
    with pytest.raises(ValueError, match=rf"a\.npz is not an archive of plain arrays: {message}"):
        read_npz(tmp_path / "a.npz")


def test_what_is_no_archive_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", one=np.arange(600))
    data = (tmp_path / "a.npz").read_bytes()
    for damaged in (b"", b"text", data[:-30], data[:900] + b"?" + data[901:]):
        (tmp_path / "a.npz").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.npz is not an archive of plain arrays: "):
            read_npz(tmp_path / "a.npz")
