"""Reading files that others made: regular ones, of a bounded size; and whose fault it is that one cannot be read."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, TypeVar

from pydantic import BaseModel, ValidationError

from attndistill.core.words import shown

Model = TypeVar("Model", bound=BaseModel)

_MACHINE = {errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.ESTALE}
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


def machine_fault(error: BaseException) -> bool:
    """Whether the machine failed (memory, handles, disk) and not the file that was being read: never skip for that."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _MACHINE)


def regular_file(path: Path, *, at_most: int) -> BinaryIO:
    """Open a regular file, without waiting for anybody.

    Raises:
        ValueError: a folder, pipe, socket or device, or more than `at_most` bytes.
        OSError: what the system says (the file is missing, say).
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENODEV):  # a socket; a device that nothing drives
            raise _not_regular(path, path.stat().st_mode) from None
        raise
    status = os.fstat(handle)
    if stat.S_ISREG(status.st_mode) and status.st_size <= at_most:
        return os.fdopen(handle, "rb")
    os.close(handle)
    if not stat.S_ISREG(status.st_mode):
        raise _not_regular(path, status.st_mode)
    raise ValueError(f"{shown(path)}: {status.st_size} bytes are too many; at most {at_most} are read")


def _not_regular(path: Path, mode: int) -> ValueError:
    return ValueError(f"{shown(path)} is {_KINDS.get(stat.S_IFMT(mode), 'a device')}, not a regular file")


def read_bounded(path: Path, *, at_most: int) -> bytes:
    """The bytes of a regular file. Raises ValueError and OSError as `regular_file`, also where it grows meanwhile."""
    with regular_file(path, at_most=at_most) as file:
        data = file.read(at_most + 1)
    if len(data) > at_most:
        raise ValueError(f"{shown(path)}: more than {at_most} bytes, which is all that is read")
    return data


def read_text(path: Path, *, at_most: int = 2**26, encoding: str = "utf-8") -> str:
    """The text of a regular file. Raises ValueError in one line that names the file."""
    try:
        return read_bounded(path, at_most=at_most).decode(encoding)
    except OSError as error:
        if machine_fault(error):
            raise
        raise ValueError(f"{shown(path)} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{shown(path)} is no text in {encoding}: {error.reason} at byte {error.start}") from None


def read_model(path: Path, model: type[Model], *, at_most: int = 2**28) -> Model:
    """A JSON file as the model that wrote it. Raises ValueError in one line that names the file and the field."""
    try:
        return model.model_validate_json(read_bounded(path, at_most=at_most))
    except FileNotFoundError:
        raise ValueError(f"{shown(path)} does not exist: run the stage that makes it first") from None
    except OSError as error:
        if machine_fault(error):
            raise
        raise ValueError(f"{shown(path)} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        where = f"{shown(path)}: {shown(field)}:" if field else f"{shown(path)}:"
        plain = not field or first["type"] == "missing"
        given = "" if plain else f" (given {shown(repr(first['input']), 80)})"
        raise ValueError(f"{where} {shown(first['msg'].removeprefix('Value error, '))}{given}") from None
