"""Workers of a study: each takes waiting trials until none is left. The study is made and filled before (`studies`)."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import FrozenTrial, TrialState

from attndistill.core.ownership import ended_in_order
from attndistill.core.progress import progress, watched
from attndistill.core.side_by_side import die_with_parent
from attndistill.core.words import shown
from attndistill.experiments import open_experiment
from attndistill.pipeline import make_deterministic
from attndistill.study.lost import give_back, reclaim
from attndistill.study.outcome import ERROR, REFUSED
from attndistill.study.search import Search, read_search
from attndistill.study.studies import SURPLUS, load_study
from attndistill.study.trial import TrialFailedError, run_trial

_QUEUED = "fixed_params"  # Optuna's attribute of trials that were queued
_LOOK = 1.0  # seconds between looks at trials that others run
_DEATHS = 10  # workers lost in one call before it gives up
_FAREWELL = 20.0  # seconds that a worker has to give its trial back


class _SurplusError(Exception):
    """Another worker took the last waiting trial meanwhile, so that Optuna made up one more."""


def work(search: Search, until: float | None, look: Callable[[], None] = lambda: None) -> None:
    """Take trials of a prepared study until none waits and none runs elsewhere, or time.monotonic() is `until`.

    Args:
        search: the study.
        until: None for no limit.
        look: called between trials.

    Raises:
        ValueError, KeyboardInterrupt: as a trial did; the trial waits again.
    """
    study = load_study(search)
    while until is None or time.monotonic() < until:
        look()
        for number in reclaim(study, search.place):
            print(f"study {search.stored_name}: trial {number} has lost its worker", flush=True)
        states = [trial.state for trial in study.get_trials(deepcopy=False)]
        if TrialState.WAITING in states:
            _one(search, study)
        elif TrialState.RUNNING in states:
            time.sleep(_LOOK)
        else:
            return


def _one(search: Search, study: optuna.Study) -> None:
    taken: list[optuna.Trial] = []

    def objective(trial: optuna.Trial) -> list[float]:
        if _QUEUED not in study._storage.get_trial(trial._trial_id).system_attrs:
            trial.set_user_attr(SURPLUS, True)
            raise _SurplusError
        taken.append(trial)
        return run_trial(search, trial)

    try:
        # an UpdateFinishedTrialError: this worker was silent for so long that another took its trial
        with suppress(optuna.exceptions.UpdateFinishedTrialError):
            study.optimize(objective, n_trials=1, catch=(TrialFailedError, _SurplusError), callbacks=[_report(search)])
    except BaseException as problem:
        if taken:
            give_back(study, taken[0].number, problem)
        raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # what a trial too large for the memory has left


def _report(search: Search) -> Callable[[optuna.Study, FrozenTrial], None]:
    """After a trial: forget its working folder, print a line."""
    names = search.definition.objectives

    def report(study: optuna.Study, trial: FrozenTrial) -> None:
        if SURPLUS in trial.user_attrs:
            return
        search.forget(trial.params)
        found = ", ".join(f"{name} {value:.6g}" for name, value in zip(names, trial.values or (), strict=False))
        found = next((shown(trial.user_attrs[key]) for key in (ERROR, REFUSED) if key in trial.user_attrs), found)
        settings = ", ".join(f"{key.rpartition('.')[2]} {_short(value)}" for key, value in trial.params.items())
        print(f"trial {trial.number}: {trial.state.name.lower()} {found} ({settings})", flush=True)

    return report


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else shown(value)


def work_elsewhere(
    folder: str,
    file: str,
    overrides: dict[str, Any],
    storage: str | None,
    artifacts: str | None,
    lineage: str | None,
    seconds: float | None,
) -> str:
    """`work` as an engine's worker does it: the study is read anew; its trials are what is counted."""
    search = read_search(Path(file), open_experiment(Path(folder)), overrides, storage, artifacts)
    search = replace(search, lineage=None if lineage is None else Path(lineage))
    make_deterministic(search.config({}))
    study = load_study(search)
    with progress(f"study {search.name}", search.definition.trials, "trials") as update, watched(_untold):

        def look() -> None:
            update(len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))))

        with ended_in_order():
            work(search, None if seconds is None else time.monotonic() + seconds, look)
    return "done"


def _untold(unit: str, done: int, total: int) -> None:
    """What a trial's own training counts."""


def work_side_by_side(search: Search, workers: int, until: float | None, look: Callable[[], None]) -> None:
    """`workers` processes of `work`; one that is killed is replaced, and its trial is resumed from its checkpoint.

    `until` and `look` are those of `work`; `look` is called in this process.

    Raises:
        ValueError, KeyboardInterrupt: what a worker raised; the others are ended.
        ChildProcessError: too many workers died.
    """
    if workers == 1:
        work(search, until, look)
        return
    fork = multiprocessing.get_context("fork")  # keeps the study's recording open: trials become its children
    failures = fork.SimpleQueue()
    parent = os.getpid()

    def child() -> None:
        die_with_parent(parent)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _interrupt_once)
        try:
            work(search, until)
        except (ValueError, KeyboardInterrupt) as error:
            failures.put(ValueError(str(error)) if isinstance(error, ValueError) else error)  # some cannot be sent

    def started() -> multiprocessing.process.BaseProcess:
        process = fork.Process(target=child)
        process.start()
        return process

    running, deaths = [started() for _ in range(workers)], 0
    try:
        while running:
            multiprocessing.connection.wait([process.sentinel for process in running], _LOOK)
            look()
            if not failures.empty():
                raise failures.get()
            ended = [process for process in running if not process.is_alive()]
            running = [process for process in running if process.is_alive()]
            died = [process for process in ended if process.exitcode]
            deaths += len(died)
            if deaths > _DEATHS:
                raise ChildProcessError(f"{deaths} workers died, the last with {died[-1].exitcode}")
            running += [started() for _ in died]
    finally:
        _send_away(running)


def _interrupt_once(*_: object) -> None:
    """A terminal interrupts workers and their parent, who then ends them too: a trial is given back undisturbed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _send_away(running: Sequence[multiprocessing.process.BaseProcess]) -> None:
    for process in running:
        process.terminate()
    deadline = time.monotonic() + _FAREWELL
    for process in running:
        process.join(max(0.0, deadline - time.monotonic()))
        process.kill()
        process.join()
