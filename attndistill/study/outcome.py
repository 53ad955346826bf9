"""What a study found, as one file for git and a few figures: trials, winner, importances, slices, the surface (Fig. 8).

outputs/study/<name>/{found.json,*.png}   as it stands: numbers alone (no time, no run id), and figures
search/found/<name>.json                  the same file for git and the report

`outcomes.Outcome` is the file's one definition, for writer and reader. A study
under other settings than the files' has a folder of its own, <name>-<digest>, and no file for git. Nor does a study
that has not ended take the place of one with more trials.
"""

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attndistill.core.artifacts import replacing_directory, write_json
from attndistill.outcomes import Outcome, Value, read_outcome

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from attndistill.study.search import Search

SAME_AS, REFUSED, ERROR = "same_as", "refused", "error"  # attributes of trials that were not trained to their end
BY_SEED = "by_seed"  # of those that were: objective -> the figure of each seed
_EVALUATOR = "PED-ANOVA"
_FILE = "found.json"
_FEWEST = 10  # complete trials for importances


def write_outcome(search: "Search", study: "optuna.Study") -> str | None:
    """Write the file and the figures of a study with a finished trial; gives a line that says where."""
    from attndistill.report.search import figures_of

    outcome = outcome_of(search, study)
    if not outcome.complete:
        return None
    folder, tracked, home = outcome_folder(search), search.layout.found(search.name), search.layout.folder
    with replacing_directory(folder) as beside:
        write_json(beside / _FILE, outcome.plain())
        for name, picture in figures_of(outcome).items():
            (beside / name).write_bytes(picture)
    kept = _kept(search, outcome, tracked)
    if kept is not None:
        return f"{(folder / _FILE).relative_to(home)} written; {tracked.relative_to(home)} stays: {kept}"
    write_json(tracked, outcome.plain())
    return f"{tracked.relative_to(home)} written"


def outcome_folder(search: "Search") -> Path:
    """Where the study's file and figures lie."""
    name = f"{search.name}-{search.digest}" if search.departures else search.name
    return search.layout.outputs / "study" / name


def _kept(search: "Search", outcome: Outcome, tracked: Path) -> str | None:
    """Why the file for git is not to be replaced by this outcome; None where it is."""
    if search.departures:
        return f"{', '.join(f'--{key}' for key in search.departures)} given"
    if outcome.state == "finished" or not tracked.exists():
        return None
    there, here = len(read_outcome(tracked).trials), len(outcome.trials)
    return f"it has {there} trials, this study {here} so far" if there > here else None


def outcome_of(search: "Search", study: "optuna.Study") -> Outcome:
    """Everything the report says of a study; trials that were run again are left out."""
    from attndistill.study.studies import trials_of_the_file

    definition, trials = search.definition, trials_of_the_file(study)
    ended = [trial for trial in trials if trial.state.is_finished()]
    config, chosen = search.config({}), definition.plain()
    judges = [e.name for e in definition.evaluations if e.labels] or [e.name for e in definition.evaluations]
    by_seed = [importances(study, seed) for seed in range(len(definition.seeds))]
    return Outcome.model_validate(
        {
            "study": search.name,
            "experiment": search.experiment.name,
            **{key: chosen[key] for key in ("row", "search", "seeds", "objectives", "surface", "sampler", "pruner")},
            "directions": definition.directions,
            "protocol": f"{' and '.join(judges)} on the validation part of train "
            f"({config.data.validation_fraction:g} of it)",
            "configuration": search.configuration,
            "overrides": search.departures,
            "epochs": config.distill.recipe.epochs,
            "planned": definition.trials,
            "state": "finished" if len(ended) == len(trials) >= definition.trials else "unfinished",
            "trials": [_trial(trial, definition.enqueue) for trial in ended],
            "best": [trial.number for trial in best_trials(study)],
            "importances": importances(study),
            "importances_by_seed": by_seed if all(by_seed) else [],
            "evaluator": _EVALUATOR,
        }
    )


def _trial(trial: "FrozenTrial", enqueued: Sequence[dict[str, Value]]) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "settings": trial.params,
        "values": trial.values,
        "epochs": trial.last_step if trial.state.name == "PRUNED" else None,
        "given": trial.params in enqueued,
        **{key: trial.user_attrs[key] for key in (BY_SEED, SAME_AS, REFUSED, ERROR) if trial.user_attrs.get(key)},
    }


def best_trials(study: "optuna.Study") -> list["FrozenTrial"]:
    """The winner, or of two objectives the Pareto front. Of equal trials the first."""
    complete = _complete(study)
    if len(study.directions) == 1 and complete:
        return [min(complete, key=lambda trial: (_sign(study, 0) * trial.values[0], trial.number))]
    return sorted(study.best_trials, key=lambda trial: trial.number) if complete else []


def _complete(study: "optuna.Study") -> list["FrozenTrial"]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]


def _sign(study: "optuna.Study", place: int) -> int:
    """What makes the smallest value of an objective the best."""
    return -1 if study.directions[place].name == "MAXIMIZE" else 1


def importances(study: "optuna.Study", seed: int | None = None) -> dict[str, dict[str, float]] | None:
    """Objective -> setting -> importance; None where there are too few trials, or they are all alike.

    PED-ANOVA asks which settings the best tenth of the trials shares, so it needs ten of them. With `seed`, the place
    of one among the study's, by that student's figures alone: how far importances hang on chance.
    """
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    complete = _complete(study)
    if len(complete) < _FEWEST or (seed is not None and not all(trial.user_attrs.get(BY_SEED) for trial in complete)):
        return None
    found = {}
    for place, name in enumerate(study.metric_names or []):
        target = partial(_signed, sign=_sign(study, place), place=place, seed=seed)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # "smallest is best": so it is made to be
                found[name] = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(), target=target)
        except (ValueError, RuntimeError):
            return None
    return found


def _signed(trial: "FrozenTrial", *, sign: int, place: int, seed: int | None) -> float:
    return sign * float(trial.values[place] if seed is None else trial.user_attrs[BY_SEED][place][seed])
