"""Workers of a study: the study is made and filled first, then each worker takes waiting trials until none is left.

All trials are queued beforehand (the paper's points with their values, the rest empty, for the sampler), so that any
number of workers on any number of machines do exactly as many as the file says.
"""

import multiprocessing
import multiprocessing.connection
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from attndistill.core.side_by_side import die_with_parent
from attndistill.study.sampling import pruner_of, sampler_of
from attndistill.study.storage import give_back, reclaim
from attndistill.study.trial import Search, run_trial

_FILLED = "filled"  # attribute of a study whose trials are queued
_PATIENCE = 30.0  # seconds that a machine waits for another one to queue the trials
_LOOK = 1.0  # seconds between looks at trials that others run
_DEATHS = 10  # workers lost in one call before it gives up


def prepare_study(search: Search) -> optuna.Study:
    """Create the study and queue its trials; a study that is there gets what it lacks.

    Of several machines that start at once, the one that created the study fills it.
    """
    storage, definition = search.place.open(), search.plan.definition
    created = True
    try:
        optuna.create_study(storage=storage, study_name=search.name, directions=definition.directions)
    except optuna.exceptions.DuplicatedStudyError:
        created = False
    study = load_study(search, storage)
    patience = time.monotonic() + _PATIENCE
    while not created and _FILLED not in study.user_attrs and time.monotonic() < patience:
        time.sleep(_LOOK)
    study.set_metric_names(list(definition.objectives))
    for point in definition.enqueue:
        study.enqueue_trial(dict(point), skip_if_exists=True)
    lost = {number for trial in study.get_trials(deepcopy=False) for number in _earlier(trial)}
    queued = sum(trial.number not in lost for trial in study.get_trials(deepcopy=False))
    for _ in range(definition.trials - queued):
        study.enqueue_trial({})
    study.set_user_attr(_FILLED, True)
    return study


def load_study(search: Search, storage: optuna.storages.BaseStorage | None = None) -> optuna.Study:
    """The study as it is. Raises ValueError when there is none of this file and configuration."""
    definition = search.plan.definition
    try:
        return optuna.load_study(
            study_name=search.name,
            storage=storage or search.place.open(),
            sampler=sampler_of(definition),
            pruner=pruner_of(definition),
        )
    except KeyError:
        raise ValueError(
            f"no study {search.name} here: run `attndistill study` with this file, settings and storage first"
        ) from None


def _earlier(trial: FrozenTrial) -> list[int]:
    """Numbers under which a retried trial ran before; they are one trial of the plan."""
    history: list[int] = trial.system_attrs.get("retry_history", [])
    return history


def work(search: Search, until: float | None) -> None:
    """Take trials until none waits and none runs elsewhere, or no new one may begin.

    Args:
        search: the study, prepared.
        until: time.monotonic() after which no trial begins; None for no limit.

    Raises:
        ValueError, KeyboardInterrupt: as a trial did; the trial waits again.
    """
    study = load_study(search)
    while until is None or time.monotonic() < until:
        for number in reclaim(study, search.place):
            print(f"study {search.name}: trial {number} has lost its worker and waits again", flush=True)
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
        taken.append(trial)
        return run_trial(search, trial)

    try:
        # an UpdateFinishedTrialError: this worker was silent for so long that another took its trial
        with suppress(optuna.exceptions.UpdateFinishedTrialError):
            study.optimize(objective, n_trials=1, catch=(FloatingPointError,), callbacks=[_tell(search)])
    except BaseException:
        if taken:
            give_back(study, taken[0].number)
        raise


def _tell(search: Search) -> Callable[[optuna.Study, FrozenTrial], None]:
    """After a trial: forget its working folder, say a line."""
    names = search.plan.definition.objectives

    def tell(study: optuna.Study, trial: FrozenTrial) -> None:
        search.forget(trial.params)
        found = ", ".join(f"{name} {value:.6g}" for name, value in zip(names, trial.values or (), strict=False))
        settings = ", ".join(f"{key.rpartition('.')[2]} {_short(value)}" for key, value in trial.params.items())
        print(f"trial {trial.number}: {trial.state.name.lower()} {found} ({settings})", flush=True)

    return tell


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class _Failure:
    kind: str
    message: str


_KINDS: dict[str, type[BaseException]] = {error.__name__: error for error in (ValueError, KeyboardInterrupt)}


def work_side_by_side(search: Search, workers: int, until: float | None) -> None:
    """`workers` processes of `work`; one that is killed is replaced, and its trial goes on from its checkpoint.

    Raises:
        ValueError, KeyboardInterrupt: what a worker raised; the others are ended.
        RuntimeError: too many workers died.
    """
    if workers == 1:
        work(search, until)
        return
    fork = multiprocessing.get_context("fork")  # keeps the study's recording open: trials become its children
    failures = fork.SimpleQueue()
    parent = os.getpid()

    def child() -> None:
        die_with_parent(parent)
        try:
            work(search, until)
        except (ValueError, KeyboardInterrupt) as error:
            failures.put(_Failure(type(error).__name__, str(error)))

    def started() -> multiprocessing.process.BaseProcess:
        process = fork.Process(target=child)
        process.start()
        return process

    running, deaths = [started() for _ in range(workers)], 0
    try:
        while running:
            multiprocessing.connection.wait([process.sentinel for process in running], _LOOK)
            if not failures.empty():
                failure = failures.get()
                raise _KINDS[failure.kind](failure.message)
            ended = [process for process in running if not process.is_alive()]
            running = [process for process in running if process.is_alive()]
            died = [process for process in ended if process.exitcode]
            deaths += len(died)
            if deaths > _DEATHS:
                raise RuntimeError(f"{deaths} workers died, the last with {died[-1].exitcode}")
            running += [started() for _ in died]
    finally:
        for process in running:
            process.terminate()
            process.join()
