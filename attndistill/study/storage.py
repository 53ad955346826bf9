"""Where studies live: a database or a journal file, and the folder of their pictures.

An address is completed where its meaning is plain and refused where it is not, before optuna or a database driver are
imported.
"""

import logging
import os
import re
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from attndistill.core.secrets import hidden
from attndistill.core.words import shown
from attndistill.tracking.address import sqlite_uri
from attndistill.tracking.spool import work_folder

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from sqlalchemy.engine import URL, Connection

STORAGE = "ATTNDISTILL_STUDY_STORAGE"  # the environment's address, which no list of processes shows
HEARTBEAT, GRACE = 30, 600  # seconds between signs of life, and without one until a trial is given to another worker
# (a worker that was paused for some minutes is no lost one)
_OTHER_SPELLINGS = {"postgres": "postgresql+psycopg", "postgresql": "postgresql+psycopg"}  # the driver of our extra
_SQLITE_ENDINGS = (".db", ".sqlite", ".sqlite3")
_SQLITE_MAGIC = b"SQLite format 3\0"
_MOST_JOURNAL = 2**31  # bytes: Optuna reads all of it
_LOCK_WAIT = 60.0  # seconds that a sqlite database may be busy
_RACES, _AGAIN = 30, 0.2  # tries to make the tables that another process is making at this moment, seconds between them
_RACE = re.compile("already exists|duplicate key|UNIQUE constraint", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """A storage and where its artifacts lie.

    Attributes:
        address: a database address ("sqlite:///...", "postgresql+psycopg://...") or the path of a journal file.
        artifacts: the folder of pictures; shared by the machines that share the storage.
    """

    address: str
    artifacts: Path = Path()

    @classmethod
    def of(cls, root: Path, address: str | None, artifacts: str | None) -> "Place":
        """As given, else a sqlite database and a folder under .work/study; relative paths are below `root`.

        Raises:
            ValueError: an address or a folder that cannot be meant.
        """
        home = work_folder(root) / "study"
        address = address or os.environ.get(STORAGE)
        folder = root / artifacts if artifacts else home / "artifacts"
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"artifacts {shown(folder)} is not a folder")
        return cls(_completed(root, address) if address else sqlite_uri(home / "studies.db"), folder)

    @property
    def is_journal(self) -> bool:
        """Whether the storage is a journal file."""
        return "://" not in self.address

    @property
    def shown(self) -> str:
        """The address without its password."""
        return shown(hidden(self.address))

    def exists(self) -> bool:
        """Whether studies were ever kept here; makes nothing.

        Raises:
            ValueError: as `open`.
        """
        file = self._file
        return (file is None or file.exists()) and (self.is_journal or self._has_tables())

    def open(self) -> "BaseStorage":
        """Open the storage, making it when it is not there.

        Raises:
            ValueError: an address that SQLAlchemy does not know, a server that does not answer, a file of another kind.
        """
        import optuna

        logging.getLogger("optuna").setLevel(
            logging.ERROR
        )  # a failed trial's traceback is a warning there, a line here
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        file = self._file
        if file is not None:
            make_folder("storage", file.parent)
            if file.exists() and not file.is_file():
                raise ValueError(f"storage {shown(file)} is not a regular file")
            if self.is_journal and file.exists() and file.stat().st_size > _MOST_JOURNAL:
                raise ValueError(
                    f"storage {shown(file)} has {file.stat().st_size} bytes; at most {_MOST_JOURNAL} are read"
                )
        storage = self._journal() if self.is_journal else self._database()
        make_folder("artifacts", self.artifacts)
        return storage

    @property
    def _file(self) -> Path | None:
        """The file of a journal or a sqlite database; None for a server."""
        if self.is_journal:
            return Path(self.address)
        url = _parsed(self.address)
        return Path(url.database or "") if url.get_backend_name() == "sqlite" else None

    def _journal(self) -> "BaseStorage":
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        try:
            return JournalStorage(JournalFileBackend(self.address))
        except OSError as error:
            raise ValueError(f"storage {self.shown} cannot be opened: {error.strerror}") from None
        except Exception:  # whatever a line of something else does to Optuna
            raise ValueError(f"storage {self.shown} is not a journal of studies") from None

    def _has_tables(self) -> bool:
        from sqlalchemy import create_engine, inspect
        from sqlalchemy.exc import SQLAlchemyError

        try:
            engine = create_engine(self.address)
            try:
                return bool(inspect(engine).has_table("studies"))
            finally:
                engine.dispose()
        except (ImportError, SQLAlchemyError) as error:
            raise self._refusal(error) from None

    def _database(self) -> "BaseStorage":
        from optuna.storages import RDBStorage
        from sqlalchemy import event
        from sqlalchemy.exc import SQLAlchemyError

        from attndistill.study.lost import retry_stale

        of_a_server: dict[str, Any] = {"pool_pre_ping": True}
        of_a_file: dict[str, Any] = {"connect_args": {"timeout": _LOCK_WAIT, "isolation_level": None}}
        for left in reversed(range(_RACES)):
            try:
                storage = RDBStorage(
                    self.address.replace("{", "{{").replace("}", "}}"),  # Optuna formats it
                    engine_kwargs=of_a_server if self._file is None else of_a_file,
                    heartbeat_interval=HEARTBEAT,
                    grace_period=GRACE,
                    heartbeat_stale_trial_callback=retry_stale,
                )
            except (ImportError, SQLAlchemyError, RuntimeError) as error:  # RuntimeError: tables of another Optuna
                if not left or not _RACE.search(str(error)):
                    raise self._refusal(error) from None
                time.sleep(_AGAIN)
                continue
            if self._file is not None:
                event.listen(storage.engine, "begin", _begin_to_write)
            return storage
        raise AssertionError

    def _refusal(self, error: Exception) -> ValueError:
        cause = error.__cause__ if isinstance(error, ImportError) and error.__cause__ else error
        if isinstance(cause, ModuleNotFoundError):
            return ValueError(f"storage {self.shown}: its driver, the Python package {cause.name}, is not installed")
        reason = shown(hidden(str(error).splitlines()[0]))
        return ValueError(f"storage {self.shown} cannot be opened: {type(error).__name__}: {reason}")


def _begin_to_write(connection: "Connection") -> None:
    """Take sqlite's lock before a transaction reads.

    sqlite has no SELECT FOR UPDATE, by which Optuna lets one worker have a trial that waits: two would read that it
    waits, and both would run it.
    """
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def make_folder(what: str, path: Path) -> None:
    """Make a folder, parents too. Raises ValueError naming it where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{what}: {shown(path)} cannot be made: {os.strerror(error.errno or 0)}") from None


def _completed(root: Path, given: str) -> str:
    """A database address, or the absolute path of a journal file."""
    kind, mark, rest = given.partition("://")
    if not mark:
        return str(_checked_journal(root / given))
    if kind.partition("+")[0] == "sqlite":
        url = _parsed(given)
        if (url.database or "") in ("", ":memory:") or "mode=memory" in rest:
            raise ValueError(
                f"storage {shown(hidden(given))}: a study in memory is lost with its process; allowed: sqlite:///FILE"
            )
        if not rest.startswith("/"):
            return given  # sqlite://user@host/...: no file of ours
        _, question, query = rest.partition("?")
        return f"{sqlite_uri(root / url.database)}{question}{query}"
    user, at, host = rest.partition("?")[0].rpartition("@")
    name, colon, password = user.partition(":")
    whole = (
        f"{name}{colon}{quote(password, safe='%')}{at}{host}{rest[len(user + at + host) :]}"  # an @ in it is its own
    )
    return f"{_OTHER_SPELLINGS.get(kind, kind)}://{whole}"


def _parsed(address: str) -> "URL":
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(address)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        raise ValueError("storage: not a database address; allowed: dialect://..., or a file's path") from None


def _checked_journal(path: Path) -> Path:
    if path.is_dir():
        raise ValueError(
            f"storage {shown(path)} is a folder; allowed: the path of a journal file, or a database address"
        )
    if path.exists() and not path.is_file():
        raise ValueError(f"storage {shown(path)} is not a regular file")
    if path.suffix in _SQLITE_ENDINGS or _begins_as_sqlite(path):
        text = f"a path alone is a journal file; for sqlite write {sqlite_uri(path)}"
        raise ValueError(f"storage {shown(path)}: {shown(text, 400)}")
    return path


def _begins_as_sqlite(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE_MAGIC)) == _SQLITE_MAGIC
    except OSError:
        return False
