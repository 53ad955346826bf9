"""A study in its storage: made and filled, and loaded with its sampler and pruner.

All trials are queued beforehand (the paper's points with their values, the rest empty, for the sampler), so that any
number of workers on any number of machines do exactly as many as the file says. Trial n is the same whoever runs it.
"""

import time
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from attndistill.core.randomness import derived_seed
from attndistill.outcomes import Pruner, Sampler
from attndistill.study.lost import retry_history
from attndistill.study.search import Search

SURPLUS = "surplus"  # attribute of a trial that the file does not ask for
_FILLED = "filled"  # attribute of a study whose trials are queued
_PATIENCE, _LOOK = 30.0, 1.0  # seconds that a machine waits for another one to queue the trials, between its looks
_SAMPLERS: dict[str, type[BaseSampler]] = {
    "tpe": optuna.samplers.TPESampler,
    "random": optuna.samplers.RandomSampler,
    "gp": optuna.samplers.GPSampler,
    "nsga2": optuna.samplers.NSGAIISampler,
}
_SEEDS = 2**32  # numpy takes no larger seed


def sampler_of(chosen: Sampler) -> BaseSampler:
    """The sampler that a study file names, drawn anew for every trial, from the study's seed and the trial's number.

    A sampler seeded once would repeat its first draws after each restart, and in every worker. A low-discrepancy
    sequence is one sequence: its points must share a seed.
    """
    if chosen.name == "qmc":
        return optuna.samplers.QMCSampler(seed=chosen.seed, scramble=True)
    kind = _SAMPLERS[chosen.name]

    def before_trial(self: Any, study: optuna.Study, trial: FrozenTrial) -> None:
        kind.__init__(self, seed=derived_seed(chosen.seed, f"trial {trial.number}") % _SEEDS)  # type: ignore[call-arg]
        kind.before_trial(self, study, trial)

    seeded: BaseSampler = type(kind.__name__, (kind,), {"before_trial": before_trial})(seed=chosen.seed)
    return seeded


def pruner_of(options: Pruner) -> optuna.pruners.BasePruner:
    """The pruner that a study file names; its steps are epochs."""
    match options.name:
        case "median":
            return optuna.pruners.MedianPruner(
                n_startup_trials=options.startup_trials, n_warmup_steps=options.warmup_epochs
            )
        case "successive_halving":
            return optuna.pruners.SuccessiveHalvingPruner(
                min_resource=max(1, options.warmup_epochs), bootstrap_count=options.startup_trials
            )
    return optuna.pruners.NopPruner()


def prepare_study(search: Search) -> optuna.Study:
    """Create the study and queue its trials; a study that is there gets what it lacks.

    Of several machines that start at once, the one that created the study fills it.
    """
    storage, definition = search.place.open(), search.definition
    created = True
    try:
        optuna.create_study(storage=storage, study_name=search.stored_name, directions=definition.directions)
    except optuna.exceptions.DuplicatedStudyError:
        created = False
    study = load_study(search, storage)
    patience = time.monotonic() + _PATIENCE
    while not created and _FILLED not in study.user_attrs and time.monotonic() < patience:
        time.sleep(_LOOK)
    study.set_metric_names(list(definition.objectives))
    for point in definition.enqueue:
        study.enqueue_trial(dict(point), skip_if_exists=True)
    for _ in range(definition.trials - len(trials_of_the_file(study))):
        study.enqueue_trial({})
    study.set_user_attr(_FILLED, True)
    return study


def load_study(search: Search, storage: optuna.storages.BaseStorage | None = None) -> optuna.Study:
    """The study as it is, with the file's sampler and pruner. Raises KeyError when there is none of this name."""
    return optuna.load_study(
        study_name=search.stored_name,
        storage=storage or search.place.open(),
        sampler=sampler_of(search.definition.sampler),
        pruner=pruner_of(search.definition.pruner),
    )


def trials_of_the_file(study: optuna.Study) -> list[FrozenTrial]:
    """Every trial that the file asks for, in its last state: those that were run again are left out."""
    trials = study.get_trials(deepcopy=False)
    superseded = {number for trial in trials for number in retry_history(trial)}
    return [trial for trial in trials if trial.number not in superseded and SURPLUS not in trial.user_attrs]
