"""A study file: what is varied, what is judged, how long. Strict, and light to read: neither optuna nor torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from attndistill.core.plain_yaml import read_plain_yaml
from attndistill.core.sections import Section
from attndistill.core.words import shown
from attndistill.evaluations import Evaluation
from attndistill.outcomes import (
    PARAMETERS,
    Direction,
    Objectives,
    Pruner,
    Sampler,
    Seeds,
    Space,
    Value,
    checked_name,
    directions,
    judged,
)

_SHOWN = 5  # mistakes that are named together
_VALUE_TYPES = ("bool", "int", "float", "str")


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
