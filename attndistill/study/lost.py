"""Trials whose worker is gone: who runs a trial, whether that process lives, and what happens to its trial if not.

Optuna retries a trial whose heartbeat stopped, for databases only. Here every worker of any storage also leaves its
machine, process number and start in the trial, so that on one machine a killed worker is noticed at once; a journal
file gets heartbeats as files beside it, for workers that share it over a network.
"""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from attndistill.study.retry import retry_stale
from attndistill.study.storage import GRACE, HEARTBEAT, Place
from attndistill.tracking.spool import process_started

WORKER = "worker"  # the attribute of a trial that says who runs it


def sign(trial: optuna.Trial) -> None:
    """Leave in the trial who runs it. A retried trial inherits its predecessor's signature: hence the number."""
    pid = os.getpid()
    worker = {"trial": trial.number, "machine": _machine(), "pid": pid, "started": process_started(pid)}
    trial.set_user_attr(WORKER, worker)


@cache
def _machine() -> str:
    """Where a process number means this process: host, its last start, and the container's own process numbers."""
    boot, space = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    words = [socket.gethostname()]
    with suppress(OSError):
        words += [boot.read_text().strip(), str(space.readlink())]
    return " ".join(words)


def reclaim(study: optuna.Study, place: Place) -> list[int]:
    """Fail the trials whose worker is gone and queue them again, with the same values; gives their numbers.

    Any number of workers may do so at once: the storage lets one of them fail a trial.
    """
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    found = [trial.number for trial in running if _is_lost(trial, place) and _fail(study, trial)]
    if not place.is_journal:  # a database watches its own heartbeats, but looks only when somebody takes a trial
        optuna.storages.fail_stale_trials(study)
        states = [trial.state for trial in study.get_trials(deepcopy=False)]
        found += [t.number for t in running if states[t.number] == TrialState.FAIL and t.number not in found]
    return found


def _fail(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Fail a lost trial and queue it again; False when another worker was quicker."""
    try:
        first: bool = study._storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
    except optuna.exceptions.UpdateFinishedTrialError:
        return False
    if first:
        retry_stale(study, study._storage.get_trial(trial._trial_id))
    return first


def _is_lost(trial: FrozenTrial, place: Place) -> bool:
    worker: dict[str, Any] = trial.user_attrs.get(WORKER, {})
    age = (datetime.now() - trial.datetime_start).total_seconds() if trial.datetime_start else 0.0
    if worker.get("trial") != trial.number:
        return age > GRACE  # its worker died before it could sign
    if worker["machine"] == _machine():
        return process_started(int(worker["pid"])) != str(worker["started"])
    return place.is_journal and _silence(place, trial, age) > GRACE


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
