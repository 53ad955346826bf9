"""Where studies live: a database (RDB address) or a journal file, and the folder of their pictures."""

import logging
import os
import re
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import URL, create_engine, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from attndistill.study.address import STORAGE, artifacts_folder, make_folder, storage_address
from attndistill.study.retry import retry_stale
from attndistill.tracking.spool import work_folder

HEARTBEAT, GRACE = 30, 600  # seconds between signs of life, and without one until a trial is given to another worker
# (a worker that was paused for some minutes is no lost one)
_LOCK_WAIT = 60.0  # seconds that a sqlite database may be busy
_RACES, _AGAIN = 30, 0.2  # tries to make the tables that another process is making at this moment, seconds between them
_RACE = re.compile("already exists|duplicate key|UNIQUE constraint", re.IGNORECASE)

logging.getLogger("optuna").setLevel(logging.WARNING)
optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


@dataclass(frozen=True)
class Place:
    """A storage and where its artifacts lie.

    Attributes:
        address: a database address ("sqlite:///...", "postgresql+psycopg://...") or the path of a journal file.
        artifacts: the folder of pictures; shared by the machines that share the storage.
    """

    address: str
    artifacts: Path

    @classmethod
    def of(cls, root: Path, address: str | None, artifacts: str | None) -> "Place":
        """As given, else a sqlite database and a folder under .work/study; relative paths are below `root`.

        Raises:
            ValueError: an address or a folder that cannot be meant.
        """
        home = work_folder(root) / "study"
        address = address or os.environ.get(STORAGE) or f"sqlite:///{home / 'studies.db'}"
        folder = artifacts_folder(root, artifacts) if artifacts else home / "artifacts"
        return cls(storage_address(root, address), folder)

    @property
    def is_journal(self) -> bool:
        """Whether the storage is a journal file."""
        return "://" not in self.address

    @property
    def shown(self) -> str:
        """The address without its password."""
        return self.address if self.is_journal else self._url.render_as_string(hide_password=True)

    def exists(self) -> bool:
        """Whether studies were ever kept here; makes nothing.

        Raises:
            ValueError: as `open`.
        """
        file = self.address if self.is_journal else self._sqlite_file
        if file is not None and not Path(file).exists():
            return False
        return self.is_journal or self._has_tables()

    def open(self) -> BaseStorage:
        """Open the storage, making it when it is not there.

        Raises:
            ValueError: an address that SQLAlchemy does not know, a server that does not answer, a file of another kind.
        """
        storage = self._journal() if self.is_journal else self._database()
        make_folder("artifacts", self.artifacts)
        return storage

    def _journal(self) -> BaseStorage:
        path = Path(self.address)
        make_folder("storage", path.parent)
        try:
            return JournalStorage(JournalFileBackend(str(path)))
        except OSError as error:
            raise ValueError(f"storage {path} cannot be opened: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError):  # whatever a line of something else does to it
            raise ValueError(f"storage {path} is not a journal of studies") from None

    @property
    def _url(self) -> URL:
        try:
            return make_url(self.address)
        except ArgumentError:
            raise ValueError("storage: not a database address; allowed: dialect://..., or a file's path") from None

    @property
    def _sqlite_file(self) -> str | None:
        return self._url.database if self._url.get_backend_name() == "sqlite" else None

    def _has_tables(self) -> bool:
        from sqlalchemy import inspect

        try:
            engine = create_engine(self._url)
            try:
                return bool(inspect(engine).has_table("studies"))
            finally:
                engine.dispose()
        except (ImportError, SQLAlchemyError) as error:
            raise self._refusal(error) from None

    def _database(self) -> BaseStorage:
        file = self._sqlite_file
        if file is not None:
            make_folder("storage", Path(file).parent)
        for left in reversed(range(_RACES)):
            try:
                return RDBStorage(
                    self.address,
                    engine_kwargs={"pool_pre_ping": True}
                    if file is None
                    else {"connect_args": {"timeout": _LOCK_WAIT}},
                    heartbeat_interval=HEARTBEAT,
                    grace_period=GRACE,
                    heartbeat_stale_trial_callback=retry_stale,
                )
            except (ImportError, SQLAlchemyError, RuntimeError) as error:  # RuntimeError: tables of another Optuna
                if not left or not _RACE.search(str(error)):
                    raise self._refusal(error) from None
                time.sleep(_AGAIN)
        raise AssertionError

    def _refusal(self, error: Exception) -> ValueError:
        cause = error.__cause__ if isinstance(error, ImportError) and error.__cause__ else error
        if isinstance(cause, ModuleNotFoundError):
            return ValueError(f"storage {self.shown}: its driver, the Python package {cause.name}, is not installed")
        reason = str(error).splitlines()[0]
        return ValueError(f"storage {self.shown} cannot be opened: {type(error).__name__}: {reason}")
