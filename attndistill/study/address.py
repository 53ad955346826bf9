"""Addresses of storages as people give them: completed where the meaning is plain, refused where it is not.

Text alone: nothing is opened, and neither optuna nor a database driver is imported.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

STORAGE = "ATTNDISTILL_STUDY_STORAGE"  # the environment's address, which no list of processes shows
_OTHER_SPELLINGS = {"postgres": "postgresql+psycopg", "postgresql": "postgresql+psycopg"}  # the driver of our extra
_SQLITE_ENDINGS = (".db", ".sqlite", ".sqlite3")
_SQLITE_MAGIC = b"SQLite format 3\0"


def storage_address(root: Path, given: str) -> str:
    """A database address, or the absolute path of a journal file (given relative to `root`).

    Raises:
        ValueError: a folder, a sqlite file without its prefix, a database in memory.
    """
    kind, mark, rest = given.partition("://")
    if not mark:
        return str(_journal(root / given))
    if kind.partition("+")[0] == "sqlite" and (rest in ("", "/") or ":memory:" in rest):
        raise ValueError(f"storage {given}: a study in memory is lost with its process; allowed: sqlite:///FILE")
    return f"{_OTHER_SPELLINGS.get(kind, kind)}://{rest}"


def _journal(path: Path) -> Path:
    if path.is_dir():
        raise ValueError(f"storage {path} is a folder; allowed: the path of a journal file, or a database address")
    if path.suffix in _SQLITE_ENDINGS or _begins_as_sqlite(path):
        raise ValueError(f"storage {path}: a path alone is a journal file; for sqlite write sqlite:///{path}")
    return path


def _begins_as_sqlite(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE_MAGIC)) == _SQLITE_MAGIC
    except OSError:
        return False


def artifacts_folder(root: Path, given: str) -> Path:
    """The folder of pictures. Raises ValueError where something else is in its place."""
    path = root / given
    if path.exists() and not path.is_dir():
        raise ValueError(f"artifacts {path} is not a folder")
    return path


def make_folder(what: str, path: Path) -> None:
    """Make a folder, parents too. Raises ValueError naming it where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{what}: {path} cannot be made: {os.strerror(error.errno or 0)}") from None


def without_passwords(words: Sequence[str]) -> list[str]:
    """A command line as it may be recorded: the passwords of database addresses are hidden."""
    return [re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", word) for word in words]
