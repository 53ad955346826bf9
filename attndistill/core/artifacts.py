"""Files that are whole or absent: written under a temporary name, flushed, then renamed; digests of their content.

A temporary name lies outside of every artifact, so that a killed process leaves none of it as content: in `.work/tmp`
of the project (DVC_ROOT, ATTNDISTILL_ROOT, else the folder above with params.yaml and experiments), a folder a write.
Its owner holds a lock beside it; every later write removes the folders whose owner is gone. Where there is no project,
or it lies on another file system, the hidden folder `.attndistill-tmp` beside the artifact takes its place.
"""

import ctypes
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from attndistill.core.ownership import locked
from attndistill.core.words import shown

_FULL = 2**16  # bytes free, at most, where a write failed for want of room
_BESIDE = ".attndistill-tmp"
_ASIDE, _GOES_TO = ".replaced", ".goes-to"  # in a folder of temporaries: what is replaced by what lies there, and where


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path of the same name to write to; renamed onto `path` when the block ends well, removed when it does not.

    Raises:
        OSError: the disk is full, also where a writer (torch, safetensors) says something else of it.
    """
    with _temporary(path) as made:
        try:
            made.touch()
            yield made
            with made.open("rb") as file:
                os.fsync(file.fileno())
            made.chmod(0o644)
            made.replace(path)
        except Exception as error:
            if isinstance(error, OSError) or shutil.disk_usage(path.parent).free > _FULL:
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


@contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """An empty directory, put in the place of `path` when the block ends well, removed when it does not.

    A reader finds the old directory or the new one, each whole, at any time where the system can exchange two names.
    """
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    with _temporary(path) as made:
        made.mkdir()
        yield made
        made.chmod(0o755)
        if not os.path.lexists(path):
            made.rename(path)
        elif not _exchanged(made, path):
            _replaced(made, path)


def _exchanged(one: Path, other: Path) -> bool:
    """Linux's renameat2 swaps two names at once; NFS and older systems have no such thing."""
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    try:
        rename = ctypes.CDLL(None).renameat2
    except AttributeError:
        return False
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def _replaced(made: Path, path: Path) -> None:
    """Two renames. `sweep` makes the second one for a process that was killed after the first."""
    made.with_name(_GOES_TO).write_text(str(path.parent.resolve() / path.name))
    aside = path.rename(made.with_name(_ASIDE))
    try:
        made.rename(path)
    except BaseException:
        aside.rename(path)
        raise


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A path of the same name on the same file system, in a folder of its own that nobody takes for content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    base, name = _temporaries(path.parent), f"{os.getpid()}-{secrets.token_hex(4)}"
    folder, lock = base / name, base / f"{name}.lock"
    with ExitStack() as held:
        held.callback(_remove_empty, base)
        while True:
            try:
                base.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(lock, timeout=10.0))
                break
            except (FileExistsError, FileNotFoundError):  # another process has just made it, or removed it, empty
                if base.exists() and not base.is_dir():
                    raise
        try:
            folder.mkdir()
            yield folder / path.name
        finally:
            _remove(folder, lock)


def _temporaries(directory: Path) -> Path:
    """Where temporary names of what goes into an existing directory lie; made when needed."""
    home = os.environ.get("DVC_ROOT") or os.environ.get("ATTNDISTILL_ROOT") or _project_around(directory)
    if home:
        base = Path(home).absolute() / ".work" / "tmp"
        if _mount(base) == _mount(directory):
            return base
    return directory / _BESIDE


def _project_around(directory: Path) -> Path | None:
    places = (directory.absolute(), *directory.absolute().parents)
    return next((at for at in places if (at / "params.yaml").is_file() and (at / "experiments").is_dir()), None)


def _mount(directory: Path) -> tuple[int, str]:
    """What two directories share if a file can be renamed from one to the other: device, and on Linux the mount.

    Of the nearest one that is there: other processes make and remove the folder of temporaries at any time.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return _mount(directory.parent)
    try:
        device, mount = os.fstat(descriptor).st_dev, None
        with suppress(OSError):
            mount = re.search(r"mnt_id:\s*(\d+)", Path(f"/proc/self/fdinfo/{descriptor}").read_text())
        return device, mount[1] if mount else ""
    finally:
        os.close(descriptor)


def sweep(directory: Path) -> None:
    """Remove what killed processes left of files that were to go into `directory`; those that live keep theirs."""
    base = _temporaries(next(place for place in (directory, *directory.absolute().parents) if place.is_dir()))
    locks: list[Path] = []
    with suppress(FileNotFoundError):
        locks = [*base.glob("*.lock")]
    for lock in locks:
        with suppress(OSError), locked(lock):  # a TimeoutError: its owner lives
            folder = lock.with_suffix("")
            _finish(folder)
            _remove(folder, lock)
    _remove_empty(base)


def _remove_empty(base: Path) -> None:
    with suppress(OSError):
        base.rmdir()


def _remove(folder: Path, lock: Path) -> None:
    """The lock goes last, so that what cannot be removed now is found later."""
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        lock.unlink(missing_ok=True)


def _finish(folder: Path) -> None:
    """The second rename of `_replaced`: its directory is whole, and nothing is in its place."""
    if (folder / _ASIDE).exists():
        path = Path((folder / _GOES_TO).read_text())
        if not path.exists():
            (folder / path.name).rename(path)


def check_empty(path: Path) -> None:
    """Raise ValueError for a target that exists and is no empty folder."""
    if os.path.lexists(path) and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{shown(path)} exists and is not an empty folder; allowed: a new or an empty one")


def write_text(path: Path, text: str) -> None:
    """Write `text` atomically."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys sorted so that equal values are equal files. NaN is refused: it is not JSON."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON artifact. Raises ValueError saying which file is missing or broken."""
    from attndistill.core.reading import read_text  # it needs numpy, and most of this module does not

    if not path.exists():
        raise ValueError(f"{shown(path)} does not exist: run the stage that makes it first")
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{shown(path)} is not valid JSON: {shown(error)}") from None


def first_problem(error: Any) -> str:
    """What a pydantic ValidationError found first, in one line: where, and what is allowed."""
    first = error.errors()[0]
    return ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON-able value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
