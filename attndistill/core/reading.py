"""Reading files that others may have written: regular files of a bounded size, nothing else."""

import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: Path) -> BinaryIO:
    """A file for reading. Raises ValueError where it is missing, or a pipe or device, which might never end."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: run the stage that makes it first") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ValueError(f"{path} is no regular file; allowed: a regular file")
    return os.fdopen(handle, "rb")


def read_bounded(path: Path, most: int) -> bytes:
    """A regular file of at most `most` bytes. Raises ValueError naming any other."""
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path} is larger than {most:,} bytes; allowed: at most that")
    return content
