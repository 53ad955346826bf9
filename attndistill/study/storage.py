"""Where studies live: a database (RDB address) or a journal file; and trials whose worker is gone.

Optuna retries a trial whose heartbeat stopped, for databases only. Here every worker of any storage also leaves its
machine, process number and start in the trial, so that on one machine a killed worker is noticed at once; a journal
file gets heartbeats as files beside it, for workers that share it over a network.
"""

import logging
import os
import re
import socket
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from attndistill.tracking.spool import process_started, work_folder

HEARTBEAT, GRACE = 30, 600  # seconds between signs of life, and without one until a trial is given to another worker
# (a worker that was paused for some minutes is no lost one)
RETRIES = 3  # of one trial; a trial that kills its worker every time must end
WORKER = "worker"  # the attribute of a trial that says who runs it
_LOCK_WAIT = 60.0  # seconds that a sqlite database may be busy

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
        """As given, else a sqlite database and a folder under .work/study; relative paths are below `root`."""
        home = work_folder(root) / "study"
        address = address or os.environ.get("ATTNDISTILL_STUDY_STORAGE") or f"sqlite:///{home / 'studies.db'}"
        if "://" not in address:
            address = str(root / address)
        return cls(address, root / artifacts if artifacts else home / "artifacts")

    @property
    def is_journal(self) -> bool:
        """Whether the storage is a journal file."""
        return "://" not in self.address

    def open(self) -> BaseStorage:
        """Open the storage, making it when it is not there.

        Raises:
            ValueError: an address that SQLAlchemy does not know, or a server that does not answer.
        """
        self.artifacts.mkdir(parents=True, exist_ok=True)
        if self.is_journal:
            path = Path(self.address)
            path.parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(str(path)))
        return self._database()

    def _database(self) -> BaseStorage:
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError, OperationalError

        kind, _, rest = self.address.partition(":///")
        sqlite = kind == "sqlite"
        if sqlite:
            Path(rest).parent.mkdir(parents=True, exist_ok=True)
        try:
            shown = make_url(self.address).render_as_string(hide_password=True)
        except ArgumentError:
            raise ValueError("storage: not a database address; allowed: dialect://..., or a file's path") from None
        try:
            return RDBStorage(
                self.address,
                engine_kwargs={"connect_args": {"timeout": _LOCK_WAIT}} if sqlite else {"pool_pre_ping": True},
                heartbeat_interval=HEARTBEAT,
                grace_period=GRACE,
                heartbeat_stale_trial_callback=_retry,
            )
        except (ArgumentError, ImportError, OperationalError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"storage {shown} cannot be opened: {type(error).__name__}: {reason}") from None


def without_passwords(words: Sequence[str]) -> list[str]:
    """A command line as it may be recorded: the passwords of database addresses are hidden."""
    return [re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", word) for word in words]


def _retry(study: optuna.Study, trial: FrozenTrial) -> None:
    RetryHeartbeatStaleTrialCallback(max_retry=RETRIES)(study, trial)


def sign(trial: optuna.Trial) -> None:
    """Leave in the trial who runs it. A retried trial inherits its predecessor's signature: hence the number."""
    pid = os.getpid()
    worker = {"trial": trial.number, "machine": _machine(), "pid": pid, "started": process_started(pid)}
    trial.set_user_attr(WORKER, worker)


@cache
def _machine() -> str:
    """This machine since its last start; two containers of one name are told apart by their hosts' starts."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()} {boot.read_text().strip() if boot.exists() else ''}".strip()


def give_back(study: optuna.Study, number: int) -> None:
    """Queue a trial that ended without a result of its own (an interrupt, a refused setting) once more."""
    _retry(study, study.get_trials(deepcopy=False)[number])


def reclaim(study: optuna.Study, place: Place) -> list[int]:
    """Fail the trials whose worker is gone and queue them again, with the same values; gives their numbers.

    Any number of workers may do so at once: the storage lets one of them fail a trial.
    """
    found = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if not _is_lost(trial, place):
            continue
        try:
            first = study._storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
        except optuna.exceptions.UpdateFinishedTrialError:  # another worker was quicker
            continue
        if first:
            _retry(study, study._storage.get_trial(trial._trial_id))
            found.append(trial.number)
    return found


def _is_lost(trial: FrozenTrial, place: Place) -> bool:
    worker: dict[str, Any] = trial.user_attrs.get(WORKER, {})
    age = (datetime.now() - trial.datetime_start).total_seconds() if trial.datetime_start else 0.0
    if worker.get("trial") != trial.number:
        return age > GRACE  # its worker died before it could sign
    if worker["machine"] == _machine():
        return process_started(int(worker["pid"])) != str(worker["started"])
    return place.is_journal and _silence(place, trial, age) > GRACE  # a database watches its own heartbeats


def _heart(place: Place, trial_id: int) -> Path:
    return Path(f"{place.address}.alive") / str(trial_id)


def _silence(place: Place, trial: FrozenTrial, age: float) -> float:
    """Seconds since the last sign of life, by the clock of the file system that holds the journal."""
    heart = _heart(place, trial._trial_id)
    if not heart.exists():
        return age
    clock = heart.with_name(f".clock-{os.getpid()}")
    clock.touch()
    now = clock.stat().st_mtime
    clock.unlink()
    return now - heart.stat().st_mtime


@contextmanager
def heartbeat(place: Place, trial_id: int) -> Iterator[None]:
    """Signs of life beside a journal file while the block runs; a database has its own."""
    if not place.is_journal:
        yield
        return
    heart, stop = _heart(place, trial_id), threading.Event()
    heart.parent.mkdir(exist_ok=True)
    heart.touch()

    def beat() -> None:
        while not stop.wait(HEARTBEAT):
            heart.touch()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        heart.unlink(missing_ok=True)
