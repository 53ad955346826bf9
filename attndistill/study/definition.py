"""A study file: what is varied, what is judged, how long. Strict, and light to read: neither optuna nor torch.

The objective is measured on the validation part of train. There is no way to name a figure on test: what is chosen by a
figure must not be reported by it.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from attndistill.config.variants import Section

Value = bool | int | float | str
Probe = Literal["knn", "logistic"]
OBJECTIVES: dict[str, Literal["maximize", "minimize"]] = {
    "knn_top1": "maximize",
    "logistic_top1": "maximize",
    "kl_to_teacher": "minimize",
    "parameters": "minimize",
}


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
