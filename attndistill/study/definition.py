"""A study file: what is varied, what is judged, how long. Strict, and light to read: neither optuna nor torch.

The objective is measured on the validation part of train. There is no way to name a figure on test: what is chosen by a
figure must not be reported by it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from attndistill.config import Config, flat, read_yaml
from attndistill.config.variants import Section
from attndistill.experiments import Experiment

Value = bool | int | float | str
Probe = Literal["knn", "logistic"]
OBJECTIVES: dict[str, Literal["maximize", "minimize"]] = {
    "knn_top1": "maximize",
    "logistic_top1": "maximize",
    "kl_to_teacher": "minimize",
    "parameters": "minimize",
}
_SEARCHABLE = ("student.", "distill.")  # everything else is shared by the trials: data, teacher, targets, protocols


class _Range(Section):
    scale: Literal["linear", "log"]

    @model_validator(mode="after")
    def _ordered(self) -> "_Range":
        low, high = self.low, self.high  # type: ignore[attr-defined]
        if low >= high:
            raise ValueError(f"low {low} must be below high {high}")
        if self.scale == "log" and low <= 0:
            raise ValueError(f"low {low} must be above 0 on a log scale")
        return self


class FloatRange(_Range):
    """A real number in [low, high]."""

    type: Literal["float"]
    low: float
    high: float

    def holds(self, value: Value) -> bool:
        """Whether `value` lies in the range."""
        return isinstance(value, float | int) and not isinstance(value, bool) and self.low <= value <= self.high

    @property
    def corners(self) -> tuple[Value, ...]:
        """Values to try a configuration with."""
        return (self.low, self.high)

    @property
    def allowed(self) -> str:
        """For messages."""
        return f"{self.low} to {self.high}"


class IntRange(_Range):
    """An integer in [low, high]."""

    type: Literal["int"]
    low: int
    high: int

    def holds(self, value: Value) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high

    @property
    def corners(self) -> tuple[Value, ...]:
        return (self.low, self.high)

    @property
    def allowed(self) -> str:
        return f"integers {self.low} to {self.high}"


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


class Sampler(Section):
    """Who proposes the next trial. Trial n of a study is drawn from (seed, n) and the trials before it."""

    name: Literal["tpe", "random", "gp", "qmc", "nsga2"]
    seed: Annotated[int, Field(ge=0)]


class Pruner(Section):
    """Who ends a hopeless trial, by its figures so far.

    startup_trials: finished trials before anything is pruned; warmup_epochs: no trial is ended before this epoch.
    """

    name: Literal["none", "median", "successive_halving"]
    startup_trials: Annotated[int, Field(ge=0)]
    warmup_epochs: Annotated[int, Field(ge=0)]


class Definition(Section):
    """A study file."""

    model_config = ConfigDict(title="study")
    row: str
    search: Annotated[dict[str, Distribution], Field(min_length=1)]
    objectives: Annotated[
        list[Literal["knn_top1", "logistic_top1", "kl_to_teacher", "parameters"]], Field(min_length=1, max_length=2)
    ]
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    trials: Annotated[int, Field(gt=0)]
    timeout: Annotated[float, Field(gt=0)] | None
    report_every: Annotated[int, Field(gt=0)]
    sampler: Sampler
    pruner: Pruner
    surface: Annotated[list[str], Field(min_length=2, max_length=2)] | None
    enqueue: list[dict[str, Value]]

    @property
    def directions(self) -> list[Literal["maximize", "minimize"]]:
        """Of the objectives."""
        return [OBJECTIVES[name] for name in self.objectives]

    @property
    def probe(self) -> Probe:
        """The probe whose validation figure is the objective; k-NN where none is."""
        return "logistic" if "logistic_top1" in self.objectives else "knn"

    @model_validator(mode="after")
    def _fits_together(self) -> "Definition":
        if len(set(self.objectives)) < len(self.objectives) or {"knn_top1", "logistic_top1"} <= set(self.objectives):
            raise ValueError(
                f"objectives {self.objectives}; allowed: two different ones, at most one of them a probe's"
            )
        if not any(name.endswith("_top1") for name in self.objectives):
            raise ValueError(f"objectives {self.objectives}; one of them must be knn_top1 or logistic_top1")
        if len(self.objectives) > 1 and self.pruner.name != "none":
            raise ValueError(f"pruner {self.pruner.name}: a study of two objectives cannot prune; allowed: none")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {self.seeds}; allowed: all different")
        for key in self.surface or ():
            if key not in self.search:
                raise ValueError(f"surface: {key} is not searched; allowed: {', '.join(self.search)}")
        for place, point in enumerate(self.enqueue):
            self._check_point(f"enqueue.{place}", point)
        return self

    def _check_point(self, place: str, point: Mapping[str, Value]) -> None:
        for key, value in point.items():
            if key not in self.search:
                raise ValueError(f"{place}.{key}: not searched; allowed: {', '.join(self.search)}")
            if not self.search[key].holds(value):
                raise ValueError(f"{place}.{key}: {value!r}; allowed: {self.search[key].allowed}")


@dataclass(frozen=True)
class Plan:
    """A checked study file on an experiment.

    Attributes:
        name: of the file, without its ending.
        definition: what the file says.
        experiment: whose data, teacher, targets and row are used.
        overrides: dotted key -> value, from the command line; below the searched values.
    """

    name: str
    definition: Definition
    experiment: Experiment
    overrides: Mapping[str, Any]

    def config(self, point: Mapping[str, Value]) -> Config:
        """The configuration of a trial. Raises ValueError for values that do not fit together."""
        fixed = {
            "seeds": self.definition.seeds,
            "runtime.processes": 1,  # workers stand side by side, not seeds
            "attention.images_per_class": 1,
        }
        return self.experiment.config(self.definition.row, {**self.overrides, **fixed, **point})


def read_plan(path: Path, experiment: Experiment, overrides: Mapping[str, Any]) -> Plan:
    """Read and check a study file.

    Raises:
        ValueError: every mistake in one line: place, what was given, what is allowed.
    """
    try:
        definition = Definition.model_validate(read_yaml(path))
    except ValidationError as error:
        problems = [_explain(problem) for problem in error.errors(include_url=False)]
        raise ValueError(f"{path}: {'; '.join(problems)}") from None
    plan = Plan(path.stem, definition, experiment, overrides)
    try:
        _check_keys(plan)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return plan


def _check_keys(plan: Plan) -> None:
    """Every key exists, and every value that a trial may be given is one the configuration takes."""
    rows, definition = plan.experiment.rows, plan.definition
    if definition.row not in rows:
        raise ValueError(f"row: {definition.row!r}; allowed: {', '.join(rows)}")
    config = plan.config({})
    if config.probe.labels.fraction is not None or config.probe.labels.list_file is not None:
        raise ValueError("probe.labels is set: a study judges trials with all labels of train; allowed: null")
    known = flat(config.plain())
    searchable = [key for key in known if key.startswith(_SEARCHABLE)]
    for key, distribution in definition.search.items():
        if key in plan.overrides:
            raise ValueError(f"search.{key}: set on the command line too")
        if key not in searchable:
            kind = "shared by all trials" if key in known else "unknown key"
            raise ValueError(f"search.{key}: {kind}; allowed: {', '.join(searchable)}")
        for value in distribution.corners:
            _try(plan, f"search.{key}", {key: value})
    for place, point in enumerate(definition.enqueue):
        _try(plan, f"enqueue.{place}", point)


def _try(plan: Plan, place: str, point: Mapping[str, Value]) -> None:
    try:
        plan.config(point)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


def _explain(problem: ErrorDetails) -> str:
    place = ".".join(str(part) for part in problem["loc"] if part not in ("float", "int", "choice", "bool", "str"))
    given, context = problem["input"], problem.get("ctx", {})
    match problem["type"]:
        case "extra_forbidden":
            return f"{place}: unknown key (given {given!r})"
        case "missing":
            return f"{place}: missing"
        case "union_tag_not_found":
            return f"{place}.type: missing; allowed: {context.get('expected_tags', 'float, int, choice')}"
        case "union_tag_invalid":
            return f"{place}.type: {context['tag']!r}; allowed: {context['expected_tags']}"
        case "literal_error":
            return f"{place}: {given!r}; allowed: {context['expected']}"
        case "value_error":
            return f"{place}: {context['error']}" if place else str(context["error"])
    return f"{place}: {given!r}; {problem['msg'][0].lower()}{problem['msg'][1:]}"
