"""Files of others: regular, bounded, in one line where not."""

import errno
import os
from pathlib import Path

import pytest

from attndistill.core.reading import machine_fault, read_bounded, read_text, regular_file


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
