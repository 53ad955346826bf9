"""A study in its storage: made and filled, and loaded with its sampler and pruner.

All trials are queued beforehand (the paper's points with their values, the rest empty, for the sampler), so that any
number of workers on any number of machines do exactly as many as the file says. Trial n is the same whoever runs it.
"""

import time
from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from attndistill.core.randomness import derived_seed
from attndistill.study.definition import Pruner, Sampler
from attndistill.study.lost import retry_history
from attndistill.study.search import Search

SURPLUS = "surplus"  # attribute of a trial that the file does not ask for
_FILLED = "filled"  # attribute of a study whose trials are queued
_PATIENCE, _LOOK = 30.0, 1.0  # seconds that a machine waits for another one to queue the trials, between its looks
_SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
    "qmc": lambda seed: optuna.samplers.QMCSampler(seed=seed, scramble=True),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
}
_SEEDS = 2**32  # numpy takes no larger seed
_ONE_SEQUENCE = ("qmc",)  # a low-discrepancy sequence is one sequence: its points must share a seed


class SeededByTrial(BaseSampler):
    """A sampler drawn anew for every trial, from the study's seed and the trial's number.

    A sampler seeded once would repeat its first draws after each restart, and in every worker.
    """

    def __init__(self, chosen: Sampler) -> None:
        self.name, self.seed = chosen.name, chosen.seed
        self.inner = _SAMPLERS[self.name](self.seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        if self.name not in _ONE_SEQUENCE:
            self.inner = _SAMPLERS[self.name](derived_seed(self.seed, f"trial {trial.number}") % _SEEDS)
        self.inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        self.inner.after_trial(study, trial, state, values)


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
        sampler=SeededByTrial(search.definition.sampler),
        pruner=pruner_of(search.definition.pruner),
    )


def trials_of_the_file(study: optuna.Study) -> list[FrozenTrial]:
    """Every trial that the file asks for, in its last state: those that were run again are left out."""
    trials = study.get_trials(deepcopy=False)
    superseded = {number for trial in trials for number in retry_history(trial)}
    return [trial for trial in trials if trial.number not in superseded and SURPLUS not in trial.user_attrs]
