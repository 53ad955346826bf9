"""Samplers and pruners of a study file, and a sampler whose trial n is the same whoever runs it."""

from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from attndistill.core.randomness import derived_seed
from attndistill.study.definition import Definition

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

    Args:
        name: of the sampler.
        seed: of the study.
    """

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.seed = name, seed
        self.inner = _SAMPLERS[name](seed)

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


def sampler_of(definition: Definition) -> BaseSampler:
    """The sampler that a study file names."""
    return SeededByTrial(definition.sampler.name, definition.sampler.seed)


def pruner_of(definition: Definition) -> optuna.pruners.BasePruner:
    """The pruner that a study file names; its steps are epochs."""
    options = definition.pruner
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
