"""What a study found, as one file for git and a few figures: trials, winner, importances, slices, the surface (Fig. 8).

outputs/<experiment>/study/<file>/{found.json,*.png}   as it stands: numbers alone (no time, no run id), and figures
experiments/search/found/<experiment>/<file>.json      the same file for git and the report

A study under other settings than the files' has a folder of its own, <file>-<digest>, and no file for git. Nor does a
study that has not ended take the place of one with more trials.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from attndistill.core.artifacts import replacing_directory, write_json
from attndistill.report.search import Found, figures_of
from attndistill.stages.layout import Layout
from attndistill.study.search import Search
from attndistill.study.trial import ERROR, REFUSED, SAME_AS
from attndistill.study.worker import trials_of_the_plan

EVALUATOR = "PED-ANOVA"
FINISHED = "finished"  # state of a study whose planned trials have all ended
_FILE = "found.json"
_FEWEST = 10  # complete trials for importances


def write_outcome(search: Search, study: optuna.Study) -> str | None:
    """Write the file and the figures of a study with a finished trial; gives a line that says where."""
    if not _complete(study):
        return None
    plan = search.plan
    layout = Layout(plan.experiment.root, plan.experiment.name)
    folder, plain = outcome_folder(search), outcome_of(search, study)
    with replacing_directory(folder) as beside:
        write_json(beside / _FILE, plain)
        for name, picture in figures_of(Found.read(beside / _FILE)).items():
            (beside / name).write_bytes(picture)
    tracked = layout.found(plan.name)
    kept = _kept(plan.departures, plain, tracked)
    if kept is not None:
        return f"{(folder / _FILE).relative_to(layout.root)} written; {tracked.relative_to(layout.root)} stays: {kept}"
    write_json(tracked, plain)
    return f"{tracked.relative_to(layout.root)} written"


def outcome_folder(search: Search) -> Path:
    """Where the study's file and figures lie."""
    plan = search.plan
    name = f"{plan.name}-{search.digest}" if plan.departures else plan.name
    return Layout(plan.experiment.root, plan.experiment.name).outputs / "study" / name


def _kept(departures: Mapping[str, Any], plain: Mapping[str, Any], tracked: Path) -> str | None:
    """Why the file for git is not to be replaced by this outcome; None where it is."""
    if departures:
        return f"{', '.join(f'--{key}' for key in departures)} given"
    if plain["state"] == FINISHED or not tracked.exists():
        return None
    there = len(Found.read(tracked).plain["trials"])
    return f"it has {there} trials, this study {len(plain['trials'])} so far" if there > len(plain["trials"]) else None


def outcome_of(search: Search, study: optuna.Study) -> dict[str, Any]:
    """Everything the report says of a study, as JSON-able values; trials that were run again are left out."""
    definition, plan = search.plan.definition, search.plan
    trials = trials_of_the_plan(study)
    ended = [trial for trial in trials if trial.state.is_finished()]
    config = plan.config({})
    chosen = definition.plain()
    return {
        "study": plan.name,
        "experiment": plan.experiment.name,
        **{key: chosen[key] for key in ("row", "search", "seeds", "objectives", "surface", "sampler", "pruner")},
        "directions": definition.directions,
        "protocol": f"{definition.probe} on the validation part of train ({config.data.validation_fraction:g} of it)",
        "configuration": plan.configuration,
        "overrides": plan.departures,
        "epochs": config.distill.recipe.epochs,
        "planned": definition.trials,
        "state": FINISHED if len(ended) == len(trials) >= definition.trials else "unfinished",
        "trials": [_trial(trial, definition.enqueue) for trial in ended],
        "best": [trial.number for trial in best_trials(study)],
        "importances": importances(study),
        "evaluator": EVALUATOR,
    }


def _trial(trial: FrozenTrial, enqueued: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    reasons = {key: trial.user_attrs[key] for key in (SAME_AS, REFUSED, ERROR) if key in trial.user_attrs}
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "settings": trial.params,
        "values": trial.values,
        "epochs": trial.last_step if trial.state == TrialState.PRUNED else None,
        "given": trial.params in enqueued,
        **reasons,
    }


def best_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The winner, or of two objectives the Pareto front. Of equal trials the first."""
    complete = _complete(study)
    if not complete:
        return []
    if len(study.directions) == 1:
        sign = -1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1
        return [min(complete, key=lambda trial: (sign * trial.values[0], trial.number))]
    return sorted(study.best_trials, key=lambda trial: trial.number)


def _complete(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def importances(study: optuna.Study) -> dict[str, dict[str, float]] | None:
    """Objective -> setting -> importance; None where there are too few trials, or they are all alike.

    PED-ANOVA asks which settings the best tenth of the trials shares, so it needs ten of them.
    """
    if len(_complete(study)) < _FEWEST:
        return None
    found = {}
    for place, name in enumerate(study.metric_names or []):
        evaluator, smallest = PedAnovaImportanceEvaluator(), _smallest_is_best(study, place)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # "smallest is best": so it is made to be
                found[name] = get_param_importances(study, evaluator=evaluator, target=smallest)
        except (ValueError, RuntimeError):
            return None
    return found


def _smallest_is_best(study: optuna.Study, place: int) -> Callable[[FrozenTrial], float]:
    """An objective as the evaluator wants it: it takes the smallest values for the best."""
    sign = -1 if study.directions[place] == optuna.study.StudyDirection.MAXIMIZE else 1
    return lambda trial: sign * float(trial.values[place])
