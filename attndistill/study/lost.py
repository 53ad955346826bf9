"""Trials that ended without a result of their own: who ran them, whether that process lives, and when they run again.

Optuna retries a trial whose heartbeat stopped, for databases only. Here every worker of any storage also leaves its
machine, process number and start in the trial, so that on one machine a killed worker is noticed at once; a journal
file gets heartbeats as files beside it, for workers that share it over a network.

A worker that dies counts against its trial, since a trial that kills its worker every time must end. An interrupt does
not: a worker that is sent away in order may come back any number of times.
"""

import copy
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
from optuna_dashboard._note import note_ver_key, save_note_with_version
from pydantic import ValidationError

from attndistill.core.sections import Section
from attndistill.core.words import shown
from attndistill.study.storage import GRACE, HEARTBEAT, Place
from attndistill.tracking.spool import process_started

RETRIES = 3  # of a trial whose worker died or whose call was refused
_WORKER = "worker"  # the attribute of a trial that says who runs it
_COUNTED = "counted_retries"  # attribute of a trial: how many of its retries count against it


class Worker(Section):
    """Who runs a trial. A trial that runs again inherits its predecessor's signature: hence the number."""

    trial: int
    machine: str
    pid: int
    started: str


def sign(trial: optuna.Trial) -> None:
    """Leave in the trial who runs it."""
    pid = os.getpid()
    worker = Worker(trial=trial.number, machine=_machine(), pid=pid, started=process_started(pid))
    trial.set_user_attr(_WORKER, worker.plain())


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
    age = (datetime.now() - trial.datetime_start).total_seconds() if trial.datetime_start else 0.0
    worker = None
    with suppress(ValidationError):
        worker = Worker.model_validate(trial.user_attrs.get(_WORKER))
    if worker is None or worker.trial != trial.number:
        return age > GRACE  # its worker died before it could sign
    if worker.machine == _machine():
        return process_started(worker.pid) != worker.started
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


def retry_history(trial: FrozenTrial) -> list[int]:
    """Numbers under which a trial ran before; they are one trial of the search."""
    history: list[int] = trial.system_attrs.get("retry_history", [])
    return history


def give_back(study: optuna.Study, number: int, problem: BaseException) -> None:
    """Queue a trial once more that an interrupt or a refused call has ended; one with a result keeps it."""
    trial = study.get_trials(deepcopy=False)[number]
    if trial.state == TrialState.RUNNING:  # interrupted before Optuna could note its end
        study._storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
        trial = study._storage.get_trial(trial._trial_id)
    if trial.state == TrialState.FAIL:
        interrupted = isinstance(problem, KeyboardInterrupt)
        _retry(study, trial, "interrupted" if interrupted else f"ended by: {shown(problem)}", counted=not interrupted)


def retry_stale(study: optuna.Study, trial: FrozenTrial) -> None:
    """What a database does with a trial whose heartbeat stopped."""
    _retry(study, trial, "its worker was lost", counted=True)


def _retry(study: optuna.Study, trial: FrozenTrial, reason: str, *, counted: bool) -> None:
    """Queue a failed trial once more, or say that it was run often enough; its note says why."""
    attributes: dict[str, Any] = copy.deepcopy(trial.system_attrs)  # a storage may hand out what it goes on using
    history = [*retry_history(trial), trial.number]
    lost = attributes.get(_COUNTED, 0) + counted
    if lost > RETRIES:
        _note(study, trial, f"{reason}; it is dropped after {lost} such ends")
        print(f"study {study.study_name}: trial {trial.number} is dropped after {lost} ends: {reason}", flush=True)
        return
    _note(study, trial, f"{reason}; it waits again, under another number")
    attributes |= {"failed_trial": history[0], "retry_history": history, _COUNTED: lost}
    study.add_trial(
        optuna.create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=copy.deepcopy(trial.user_attrs),
            system_attrs=attributes,
        )
    )


def _note(study: optuna.Study, trial: FrozenTrial, text: str) -> None:
    """A note for a trial that has ended: the dashboard's own function takes running ones only."""
    storage, place = study._storage, study._study_id
    version = storage.get_study_system_attrs(place).get(note_ver_key(trial._trial_id), 0)
    save_note_with_version(storage, place, trial._trial_id, version + 1, f"**Trial {trial.number}**: {text}")
