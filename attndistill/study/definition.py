"""A study file: what is varied, what is judged, how long. Strict, and light to read: neither optuna nor torch.

An objective is a figure of an evaluation that judges a student (`attndistill.evaluations`), measured on the validation
part of train, or the number of parameters. There is no way to name a figure on test: what is chosen by a
figure must not be reported by it.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from attndistill.core.plain_yaml import read_plain_yaml
from attndistill.core.sections import Section
from attndistill.core.words import shown
from attndistill.evaluations import Evaluation, evaluations

Value = bool | int | float | str
Direction = Literal["maximize", "minimize"]
PARAMETERS = "parameters"

_SHOWN = 5  # mistakes that are named together
_VALUE_TYPES = ("bool", "int", "float", "str")


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


class Definition(Section):
    """A study file."""

    model_config = ConfigDict(title="study")
    row: str
    search: Space
    objectives: Objectives
    seeds: Seeds
    trials: Annotated[int, Field(gt=0, le=100_000)]
    timeout: Annotated[float, Field(gt=0)] | None
    report_every: Annotated[int, Field(gt=0)]
    sampler: Sampler
    pruner: Pruner
    surface: Annotated[list[str], Field(min_length=2, max_length=2)] | None
    enqueue: list[dict[str, Value]]

    @property
    def directions(self) -> list[Direction]:
        return [directions()[name] for name in self.objectives]

    @property
    def evaluations(self) -> list[Evaluation]:
        """The evaluations that judge a trial."""
        return list({name: judged()[name][0] for name in self.objectives if name != PARAMETERS}.values())

    @property
    def curves(self) -> list[str]:
        """The objectives that are measured between epochs too: those on features."""
        return [name for name in self.objectives if name != PARAMETERS and judged()[name][0].on == "features"]

    @property
    def trained(self) -> list[str]:
        """The objectives for which something is trained on labels: measured at a trial's end."""
        return [name for name in self.objectives if name != PARAMETERS and judged()[name][0].on == "model"]

    @model_validator(mode="after")
    def _fits_together(self) -> "Definition":
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"objectives {self.objectives}; allowed: two different ones")
        if not self.evaluations:
            raise ValueError(f"objectives {self.objectives}; one of them must be {' or '.join(judged())}")
        if self.pruner.name != "none" and len(self.objectives) > 1:
            raise ValueError(f"pruner {self.pruner.name}: a study of two objectives cannot prune; allowed: none")
        if self.pruner.name != "none" and not self.curves:
            why = f"{self.objectives[0]} is measured at a trial's end only"
            raise ValueError(f"pruner {self.pruner.name}: {why}; allowed: none")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {self.seeds}; allowed: all different")
        for key in self.surface or ():
            if key not in self.search:
                raise ValueError(f"surface: {key} is not searched; allowed: {', '.join(self.search)}")
        if len(self.enqueue) > self.trials:
            raise ValueError(f"trials: {self.trials}; enqueue has {len(self.enqueue)} points, so at least that many")
        for place, point in enumerate(self.enqueue):
            self._check_point(f"enqueue.{place}", point)
        return self

    def _check_point(self, place: str, point: Mapping[str, Value]) -> None:
        for key, value in point.items():
            if key not in self.search:
                raise ValueError(f"{place}.{key}: not searched; allowed: {', '.join(self.search)}")
            if not self.search[key].holds(value):
                raise ValueError(f"{place}.{key}: {value!r}; allowed: {self.search[key].allowed}")


def read_definition(path: Path) -> Definition:
    """Read a study file, whose stem is its name. Raises ValueError: its mistakes in one line."""
    if not path.exists():
        raise ValueError(f"{shown(path)} does not exist")
    try:
        checked_name(path.stem)
        return Definition.model_validate(read_plain_yaml(path) or {})
    except ValidationError as error:
        found = list(dict.fromkeys(_explain(problem) for problem in error.errors(include_url=False)))
        more = [f"{len(found) - _SHOWN} more mistakes"] * (len(found) > _SHOWN)
        raise ValueError(f"{shown(path)}: {'; '.join([*found[:_SHOWN], *more])}") from None


def _explain(problem: ErrorDetails) -> str:
    parts = [str(part) for part in problem["loc"] if part not in ("float", "int", "choice", "bool", "str")]
    place, given, context = shown(".".join(parts)), shown(repr(problem["input"])), problem.get("ctx", {})
    if problem["type"].endswith(("_type", "finite_number")) and problem["loc"] and problem["loc"][-1] in _VALUE_TYPES:
        return f"{place}: {given}; allowed: a number, a text, true or false"  # said once, not once a type
    match problem["type"]:
        case "extra_forbidden":
            return f"{place}: unknown key (given {given})"
        case "missing":
            return f"{place}: missing"
        case "union_tag_not_found":
            return f"{place}.type: missing; allowed: {context.get('expected_tags', 'float, int, choice')}"
        case "union_tag_invalid":
            return f"{place}.type: {shown(repr(context['tag']))}; allowed: {context['expected_tags']}"
        case "literal_error":
            return f"{place}: {given}; allowed: {context['expected']}"
        case "value_error":
            text = shown(context["error"], 400)
            return f"{place}: {text}" if place else text
    return f"{f'{place}: ' * bool(place)}{given}; {problem['msg'][0].lower()}{problem['msg'][1:]}"
