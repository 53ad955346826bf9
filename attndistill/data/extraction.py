"""Unpacking an archive from elsewhere: regular files and folders below the destination, and nothing else.

The standard library's `data` filter for tar stands behind our own checks: it has let links escape before
(CVE-2025-4517), so links are refused altogether; archives of images and weights need none.
"""

import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import Self

from attndistill.core.artifacts import replacing_directory
from attndistill.core.reading import machine_fault, regular_file
from attndistill.core.words import shown

_MOST_RATIO, _FREE = 100, 2**30  # images and weights hardly compress
_BLOCK = 512  # bytes of a tar's header
_MOST_NAME, _MOST_HEADER = 4096, 2**20
_READ_WHOLE = (b"L", b"K", b"x", b"g", b"X")  # long names and PAX headers

Progress = Callable[[str], None]
"""Called with the name of each member."""


def silent(name: str) -> None:
    """No progress report."""


def extract(archive: Path, destination: Path, *, max_bytes: int = 2**40, progress: Progress = silent) -> Path:
    """Unpack a tar (plain, gz, bz2, xz) or zip archive into the folder `destination`, whole or not at all.

    Args:
        archive: the file.
        destination: the folder to make; an earlier one is replaced.
        max_bytes: more, unpacked, is refused; so is more than images and weights of the archive's length can be.
        progress: called before each member is written.

    Raises:
        ValueError: no archive, a damaged one, or a member that leaves the folder, is a link or device, or is encrypted.
    """
    if archive.exists():
        with regular_file(archive, at_most=2**62) as file:
            if not any(file.read(_BLOCK)):  # lzma would look for the end of zeros
                raise ValueError(f"{shown(archive)} is refused: neither a tar nor a zip archive")
    try:
        most = min(max_bytes, _MOST_RATIO * archive.stat().st_size + _FREE)
        with replacing_directory(destination) as directory:
            if tar := _opened(archive):  # first: a tar whose last file is a zip would pass for that zip
                with tar:
                    _untar(tar, directory, most, progress)
            elif zipfile.is_zipfile(archive):
                _unzip(archive, directory, most, progress)
            else:
                raise ValueError("neither a tar nor a zip archive")
            if not any(directory.iterdir()):
                raise ValueError("nothing is in it")
    except (OSError, EOFError, zlib.error, LZMAError, tarfile.TarError, zipfile.BadZipFile, RuntimeError) as error:
        if machine_fault(error):
            raise
        raise ValueError(f"{shown(archive)} cannot be unpacked: {shown(error)}") from None
    except ValueError as error:
        raise ValueError(f"{shown(archive)} is refused: {error}") from None
    return destination


class _Member(tarfile.TarInfo):
    """A header that is held against its checksum and cannot ask for more memory than a name takes."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            member = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if any(buf):
                raise tarfile.ReadError(f"a damaged header ({error})") from None  # it would pass for the end
            raise
        if member.size < 0 or (member.type in _READ_WHOLE and member.size > _MOST_HEADER):
            raise ValueError(f"a header of {member.size} bytes")
        return member


def _opened(archive: Path) -> tarfile.TarFile | None:
    try:
        return tarfile.open(archive, tarinfo=_Member)
    except tarfile.TarError:
        return None


def _untar(tar: tarfile.TarFile, directory: Path, max_bytes: int, progress: Progress) -> None:
    left = max_bytes
    for member in tar:
        tar.members = []  # type: ignore[attr-defined] # it would keep them all
        if not (member.isreg() or member.isdir()):
            raise ValueError(_only_files(member.name))
        _check_path(member.name, is_folder=member.isdir())
        left = _less(left, member.size, max_bytes)
        progress(member.name)
        tar.extract(member, directory, filter="data")


def _unzip(archive: Path, directory: Path, max_bytes: int, progress: Progress) -> None:
    left = max_bytes
    with zipfile.ZipFile(archive) as zipped:
        for member in zipped.infolist():
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ValueError(_only_files(member.filename))
            is_folder = member.filename.endswith("/")
            _check_path(member.filename, is_folder=is_folder)
            left = _less(left, member.file_size, max_bytes)
            progress(member.filename)
            target = directory / member.filename
            if is_folder:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with zipped.open(member) as source, target.open("xb") as file:
                shutil.copyfileobj(source, file)


def _only_files(name: str) -> str:
    return f"member {shown(name)!r} is a link or a device; only files and folders are unpacked"


def _check_path(name: str, *, is_folder: bool) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in name or (path.parts and ":" in path.parts[0]):
        raise ValueError(f"member {shown(name)!r} would leave the folder")
    if not (path.parts or (is_folder and name)):
        raise ValueError("a member has no name")
    if len(name) > _MOST_NAME:
        raise ValueError(
            f"member {shown(name)!r} has a name of {len(name)} characters; at most {_MOST_NAME} are allowed"
        )


def _less(left: int, size: int, max_bytes: int) -> int:
    if size < 0:
        raise ValueError(f"a member of {size} bytes")
    if size > left:
        raise ValueError(f"it holds more than the {max_bytes} bytes allowed")
    return left - size
