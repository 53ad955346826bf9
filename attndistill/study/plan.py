"""A study file on an experiment: read, checked against the experiment's configuration, and laid over it for a trial."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from attndistill.config import Config, flat, read_yaml
from attndistill.core.artifacts import digest_of
from attndistill.experiments import Experiment
from attndistill.study.definition import Definition, Value

_SEARCHABLE = ("student.", "distill.")  # everything else is shared by the trials: data, teacher, targets, protocols
_DECIDING = ("data", "views", "student", "targets", "distill", "probe", "attention")  # sections of a trial's figures
_FIXED = ("runtime.processes", "attention.images_per_class")  # by every study


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
        fixed: dict[str, Any] = {"seeds": self.definition.seeds}
        fixed |= dict.fromkeys(_FIXED, 1)  # workers stand side by side, not seeds; a trial is pictured shortly
        return self.experiment.config(self.definition.row, {**self.overrides, **fixed, **point})

    @property
    def departures(self) -> dict[str, Any]:
        """Settings of the command line that decide figures: a study with any is not the file's."""
        return {key: value for key, value in self.overrides.items() if not key.startswith("runtime.")}

    @property
    def configuration(self) -> str:
        """A digest of all settings that a trial's figures depend on; data and teacher are beside it.

        A searched key's value in params.yaml decides nothing: adopting the winner leaves the study what it is. Nor does
        a setting that is null, or of a probe that does not judge: a key that comes with a later version renames no
        study.
        """
        plain, definition = self.config({}).plain(), self.definition
        settings = flat({name: plain[name] for name in _DECIDING})
        deciding = {key: value for key, value in settings.items() if value is not None and self._decides(key)}
        chosen = definition.plain()
        asked = {key: chosen[key] for key in ("row", "search", "objectives", "seeds")}
        return digest_of({"settings": deciding, "definition": asked})[:8]

    def _decides(self, key: str) -> bool:
        section, _, rest = key.partition(".")
        if section == "probe":
            return rest.startswith(f"{self.definition.probe}.")
        if section == "attention":
            return rest == "temperature" and "kl_to_teacher" in self.definition.objectives
        return key not in self.definition.search


def read_plan(path: Path, experiment: Experiment, overrides: Mapping[str, Any]) -> Plan:
    """Read and check a study file.

    Raises:
        ValueError: every mistake in one line: place, what was given, what is allowed.
    """
    try:
        definition = Definition.model_validate(read_yaml(path))
    except OSError as error:  # a folder, a file that may not be read
        raise ValueError(f"{path} cannot be read as a study file: {error.strerror}") from None
    except ValidationError as error:
        problems = dict.fromkeys(_explain(problem) for problem in error.errors(include_url=False))
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
    for key in plan.overrides:
        if key == "seeds" or key in _FIXED:
            raise ValueError(f"--{key}: a study sets it itself{' (seeds in this file)' * (key == 'seeds')}")
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
    if problem["type"].endswith("_type") and problem["loc"][-1] in ("bool", "int", "float", "str"):
        return f"{place}: {problem['input']!r}; allowed: a number, a text, true or false"  # said once, not once a type
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
