"""What a study varies and what it found, defined once: for the study that writes it and the report that reads it.

    search/<name>.yaml        the space, the sampler, the pruner (study/definition.py holds the rest of a study file)
    search/found/<name>.json  Outcome

Light to read: neither optuna nor torch. An objective is a figure of an evaluation that judges a student
(`attndistill.evaluations`), measured on the validation part of train, or the number of parameters. There is no way to
name a figure on test: what is chosen by a figure must not be reported by it.
"""

import math
import re
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from attndistill.core.sections import Section
from attndistill.core.words import shown
from attndistill.evaluations import Evaluation, evaluations
from attndistill.results import Real, read_typed

Value = bool | int | float | str
Direction = Literal["maximize", "minimize"]
PARAMETERS = "parameters"


def judged() -> dict[str, tuple[Evaluation, str]]:
    """Objective -> the evaluation that has it and the name of the figure there."""
    chosen = [evaluation for evaluation in evaluations().values() if evaluation.on != "pair"]
    return {one.key(figure): (one, figure) for one in chosen for figure in one.figures}


def directions() -> dict[str, Direction]:
    """Every allowed objective and which way it is better."""
    found = {key: evaluation.figures[figure].direction for key, (evaluation, figure) in judged().items()}
    return {**found, PARAMETERS: "minimize"}


def checked_name(name: str) -> str:
    """A study's name, which becomes a folder and a file. Raises ValueError."""
    if not re.fullmatch("[A-Za-z0-9_-]+", name):
        raise ValueError(f"a study's name is its file's: {shown(name)!r}; allowed: letters, digits, - and _")
    return name


def _objective(name: str) -> str:
    if name not in directions():
        raise ValueError(f"{shown(name)!r}; allowed: {', '.join(directions())}")
    return name


Name = Annotated[str, AfterValidator(checked_name)]
Objective = Annotated[str, AfterValidator(_objective)]
Count = Annotated[int, Field(ge=0, lt=2**32)]
Objectives = Annotated[list[Objective], Field(min_length=1, max_length=2)]
Seeds = Annotated[list[Count], Field(min_length=1)]
Importances = dict[str, dict[str, Annotated[float, Field(ge=0)]]]


class Range(Section):
    """A number in [low, high]."""

    type: Literal["float", "int"]
    low: float
    high: float
    scale: Literal["linear", "log"]

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if self.low >= self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        if self.scale == "log" and self.low <= 0:
            raise ValueError(f"low {self.low} must be above 0 on a log scale")
        return self

    def holds(self, value: Value) -> bool:
        """Whether `value` lies in the range."""
        kinds = int if self.type == "int" else int | float
        return isinstance(value, kinds) and not isinstance(value, bool) and self.low <= value <= self.high

    @property
    def corners(self) -> tuple[Value, ...]:
        """Values to try a configuration with."""
        return (self.low, self.high)

    @property
    def allowed(self) -> str:
        """For messages."""
        return f"{'integers ' * (self.type == 'int')}{self.low} to {self.high}"


class FloatRange(Range):
    """A real number in [low, high]."""

    type: Literal["float"]


class IntRange(Range):
    """An integer in [low, high]."""

    type: Literal["int"]
    low: Annotated[int, Field(ge=-(2**53), le=2**53)]
    high: Annotated[int, Field(ge=-(2**53), le=2**53)]


class Choices(Section):
    """One of a few values, without an order."""

    type: Literal["choice"]
    choices: Annotated[list[Value], Field(min_length=2)]

    def holds(self, value: Value) -> bool:
        return any(value == choice and type(value) is type(choice) for choice in self.choices)

    @property
    def corners(self) -> tuple[Value, ...]:
        return tuple(self.choices)

    @property
    def allowed(self) -> str:
        return ", ".join(map(str, self.choices))

    @model_validator(mode="after")
    def _distinct(self) -> "Choices":
        if len({repr(choice) for choice in self.choices}) < len(self.choices):
            raise ValueError(f"choices {self.choices} must all be different")
        return self


Distribution = Annotated[FloatRange | IntRange | Choices, Field(discriminator="type")]
Space = Annotated[dict[str, Distribution], Field(min_length=1)]


class Sampler(Section):
    """Who proposes the next trial. Trial n of a study is drawn from (seed, n) and the trials before it."""

    name: Literal["tpe", "random", "gp", "qmc", "nsga2"]
    seed: Count


class Pruner(Section):
    """Who ends a hopeless trial, by its figures so far.

    startup_trials: finished trials before anything is pruned; warmup_epochs: no trial is ended before this epoch.
    """

    name: Literal["none", "median", "successive_halving"]
    startup_trials: Count
    warmup_epochs: Count


class Trial(Section):
    """One trial that has ended; the last three say why one was not trained to its end, and stand only there.

    values: of the objectives, means over seeds; by_seed: objective -> the figure of each seed.
    """

    number: Count
    state: Literal["complete", "pruned", "fail"]
    settings: dict[str, Value]
    values: list[Real] | None
    epochs: Count | None
    given: bool
    by_seed: list[list[Real]] = Field(default_factory=list)
    same_as: Count = 0
    refused: str = ""
    error: str = ""


class Outcome(Section):
    """What a study found.

    best: numbers of the winner or of the front; planned: trials of the study file; overrides: settings of the command
    line that set it apart from the file's; importances: objective -> setting -> share, by `evaluator`;
    importances_by_seed: the same by the figures of each seed alone.
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
    importances: Importances | None
    importances_by_seed: list[Importances] = Field(default_factory=list)
    evaluator: str

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "Outcome":
        if len(self.directions) != len(self.objectives):
            raise ValueError(f"directions: {len(self.directions)} of them for {len(self.objectives)} objectives")
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"objectives {self.objectives}; allowed: different ones")
        unknown = [key for key in self.surface or () if key not in self.search]
        for found in (self.importances, *self.importances_by_seed):
            for name, shares in (found or {}).items():
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
        if (complete or trial.values is not None) and len(trial.values or ()) != len(self.objectives):
            raise ValueError(f"trials: {trial.number} has no value for each objective")
        means = [fmean(each) if len(each) == len(self.seeds) else math.nan for each in trial.by_seed]
        if means and not (len(means) == len(trial.values or ()) and all(map(math.isclose, means, trial.values or ()))):
            raise ValueError(f"trials: {trial.number}: by_seed is not of its values, a figure for each seed")

    @property
    def complete(self) -> list[Trial]:
        """Trials with a value."""
        return [trial for trial in self.trials if trial.state == "complete"]

    @property
    def winners(self) -> list[Trial]:
        """The best trial, or the Pareto front."""
        return [trial for trial in self.complete if trial.number in self.best]

    def plain(self) -> dict[str, Any]:
        """As it is written: fields that a trial does not have are left out."""
        return self.model_dump(mode="json", exclude_unset=True)


def read_outcome(path: Path) -> Outcome:
    """Read a file for git; its stem is the study's name. Raises ValueError in one line: the file, the field."""
    try:
        checked_name(path.stem)
        return read_typed(Outcome, path).model_copy(update={"study": path.stem})
    except ValueError as error:  # a number of 5,000 digits has no text to put into a message
        raise error if shown(path) in str(error) else ValueError(f"{shown(path)}: {shown(error)}") from None


def read_outcomes(folder: Path | None) -> list[Outcome]:
    """Every outcome in a folder, by name; a hidden file is somebody's unfinished one. None where there is no folder."""
    found = sorted(folder.glob("*.json")) if folder else []
    return [read_outcome(path) for path in found if not path.name.startswith(".")]
