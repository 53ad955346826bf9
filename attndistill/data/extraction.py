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

from attndistill.core.artifacts import replacing_directory

Progress = Callable[[str], None]
"""Called with the name of each member."""


def silent(name: str) -> None:
    """No progress report."""


def extract(archive: Path, destination: Path, *, max_bytes: int = 2**40, progress: Progress = silent) -> Path:
    """Unpack a tar (plain, gz, bz2, xz) or zip archive into the folder `destination`, whole or not at all.

    Args:
        archive: the file.
        destination: the folder to make; an earlier one is replaced.
        max_bytes: more, unpacked, is refused.
        progress: called before each member is written.

    Raises:
        ValueError: no archive, a damaged one, or a member that leaves the folder, is a link or device, or is encrypted.
    """
    try:
        with replacing_directory(destination) as directory:
            if tarfile.is_tarfile(archive):  # first: a tar whose last file is a zip would pass for that zip
                _untar(archive, directory, max_bytes, progress)
            elif zipfile.is_zipfile(archive):
                _unzip(archive, directory, max_bytes, progress)
            else:
                raise ValueError("neither a tar nor a zip archive")
    except (OSError, EOFError, zlib.error, LZMAError, tarfile.TarError, zipfile.BadZipFile, RuntimeError) as error:
        raise ValueError(f"{archive} cannot be unpacked: {error}") from None
    except ValueError as error:
        raise ValueError(f"{archive} is refused: {error}") from None
    return destination


def _untar(archive: Path, directory: Path, max_bytes: int, progress: Progress) -> None:
    left = max_bytes
    with tarfile.open(archive) as tar:
        for member in tar:
            if not (member.isreg() or member.isdir()):
                raise ValueError(f"member {member.name!r} is a link or a device; only files and folders are unpacked")
            _check_path(member.name)
            left = _less(left, member.size, max_bytes)
            progress(member.name)
            tar.extract(member, directory, filter="data")


def _unzip(archive: Path, directory: Path, max_bytes: int, progress: Progress) -> None:
    left = max_bytes
    with zipfile.ZipFile(archive) as zipped:
        for member in zipped.infolist():
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                name = member.filename
                raise ValueError(f"member {name!r} is a link or a device; only files and folders are unpacked")
            _check_path(member.filename)
            left = _less(left, member.file_size, max_bytes)
            progress(member.filename)
            target = directory / member.filename
            if member.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with zipped.open(member) as source, target.open("xb") as file:
                shutil.copyfileobj(source, file)


def _check_path(name: str) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in name or (path.parts and ":" in path.parts[0]):
        raise ValueError(f"member {name!r} would leave the folder")


def _less(left: int, size: int, max_bytes: int) -> int:
    if size > left:
        raise ValueError(f"it holds more than the {max_bytes} bytes allowed")
    return left - size
