"""What a study found, as one file for git and a few figures: trials, winner, importances, slices, the surface (Fig. 8).

outputs/study/<name>/{found.json,*.png}   as it stands: numbers alone (no time, no run id), and figures
search/found/<name>.json                  the same file for git and the report

`Outcome` is the file's one definition, for writer and reader; neither optuna nor torch is imported to read it. A study
under other settings than the files' has a folder of its own, <name>-<digest>, and no file for git. Nor does a study
that has not ended take the place of one with more trials.
"""

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from attndistill.core.artifacts import replacing_directory, write_json
from attndistill.core.reading import read_model
from attndistill.core.sections import Section
from attndistill.core.words import shown
from attndistill.study.definition import (
    Count,
    Direction,
    Name,
    Objectives,
    Pruner,
    Sampler,
    Seeds,
    Space,
    Value,
    checked_name,
)

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from attndistill.study.search import Search

SAME_AS, REFUSED, ERROR = "same_as", "refused", "error"  # attributes of trials that were not trained to their end
_EVALUATOR = "PED-ANOVA"
_FILE = "found.json"
_LARGEST = 2**26  # bytes
_FEWEST = 10  # complete trials for importances


class Trial(Section):
    """One trial that has ended; the last three say why one was not trained to its end, and stand only there."""

    number: Count
    state: Literal["complete", "pruned", "fail"]
    settings: dict[str, Value]
    values: list[float] | None
    epochs: Count | None
    given: bool
    same_as: Count = 0
    refused: str = ""
    error: str = ""


class Outcome(Section):
    """What a study found.

    best: numbers of the winner or of the front; planned: trials of the study file; overrides: settings of the command
    line that set it apart from the file's; importances: objective -> setting -> share, by `evaluator`.
    """

    study: Name
    experiment: str
    row: str
    search: Space
    seeds: Seeds
    objectives: Objectives
    surface: Annotated[list[str], Field(min_length=2, max_length=2)] | None
    sampler: Sampler
    pruner: Pruner
    directions: list[Direction]
    protocol: str
    configuration: str
    overrides: dict[str, Any]
    epochs: Count
    planned: Count
    state: Literal["finished", "unfinished"]
    trials: list[Trial]
    best: list[Count]
    importances: dict[str, dict[str, Annotated[float, Field(ge=0)]]] | None
    evaluator: str

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "Outcome":
        if len(self.directions) != len(self.objectives):
            raise ValueError(f"directions: {len(self.directions)} of them for {len(self.objectives)} objectives")
        unknown = [key for key in self.surface or () if key not in self.search]
        for name, shares in (self.importances or {}).items():
            unknown += [name] * (name not in self.objectives) + [key for key in shares if key not in self.search]
        if unknown:
            raise ValueError(f"surface or importances: {shown(unknown[0])} is not searched")
        numbers = [trial.number for trial in self.trials]
        if len(set(numbers)) < len(numbers):
            raise ValueError("trials: two have the same number")
        for trial in self.trials:
            self._check_trial(trial)
        complete = {trial.number for trial in self.complete}
        if not complete.issuperset(self.best):
            raise ValueError(f"best: {self.best[:5]} are not all numbers of complete trials")
        return self

    def _check_trial(self, trial: Trial) -> None:
        complete = trial.state == "complete"
        if set(trial.settings) - set(self.search) or (complete and len(trial.settings) < len(self.search)):
            raise ValueError(f"trials: {trial.number} has other settings than were searched")
        for key, value in trial.settings.items():
            if not self.search[key].holds(value):
                raise ValueError(f"trials: {trial.number}: {shown(key)} {shown(value)} was not searched")
        if complete and len(trial.values or ()) != len(self.objectives):
            raise ValueError(f"trials: {trial.number} is complete and has no value for each objective")

    @property
    def complete(self) -> list[Trial]:
        """Trials with a value."""
        return [trial for trial in self.trials if trial.state == "complete"]

    def plain(self) -> dict[str, Any]:
        """As it is written: fields that a trial does not have are left out."""
        return self.model_dump(mode="json", exclude_unset=True)


def read_outcome(path: Path) -> Outcome:
    """Read a file for git; its stem is the study's name. Raises ValueError in one line: the file, the field."""
    try:
        checked_name(path.stem)
        return read_model(path, Outcome, at_most=_LARGEST).model_copy(update={"study": path.stem})
    except ValueError as error:  # a number of 5,000 digits has no text to put into a message
        raise error if shown(path) in str(error) else ValueError(f"{shown(path)}: {shown(error)}") from None


def read_outcomes(folder: Path) -> list[Outcome]:
    """Every outcome in a folder, by name; a hidden file is somebody's unfinished one."""
    return [read_outcome(path) for path in sorted(folder.glob("*.json")) if not path.name.startswith(".")]


def write_outcome(search: "Search", study: "optuna.Study") -> str | None:
    """Write the file and the figures of a study with a finished trial; gives a line that says where."""
    from attndistill.report.search import Found, figures_of

    outcome = outcome_of(search, study)
    if not outcome.complete:
        return None
    folder, tracked, home = outcome_folder(search), search.layout.found(search.name), search.layout.folder
    with replacing_directory(folder) as beside:
        write_json(beside / _FILE, outcome.plain())
        for name, picture in figures_of(Found.read(beside / _FILE)).items():
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
        **{key: trial.user_attrs[key] for key in (SAME_AS, REFUSED, ERROR) if key in trial.user_attrs},
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


def importances(study: "optuna.Study") -> dict[str, dict[str, float]] | None:
    """Objective -> setting -> importance; None where there are too few trials, or they are all alike.

    PED-ANOVA asks which settings the best tenth of the trials shares, so it needs ten of them.
    """
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    if len(_complete(study)) < _FEWEST:
        return None
    found = {}
    for place, name in enumerate(study.metric_names or []):
        target = partial(_signed, sign=_sign(study, place), place=place)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # "smallest is best": so it is made to be
                found[name] = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(), target=target)
        except (ValueError, RuntimeError):
            return None
    return found


def _signed(trial: "FrozenTrial", *, sign: int, place: int) -> float:
    return sign * float(trial.values[place])
