"""What searches found: the file of a study, and its figures. Everything is drawn from that one file."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from attndistill.core.words import shown
from attndistill.figures.search import Setting, front, importance_bars, slices, surface
from attndistill.report.sheet import Cell, Heading, Sheet
from attndistill.results import Name, Number, Real, ResultFile, Strict, Text, Whole, read_typed

NOTE = (
    "Trials are judged on the validation part of train; nothing is chosen on test, and a figure here is no figure of "
    "the main table. One split judges every trial, so the best of many is a little lucky."
)
_BEST = {"maximize": "the largest is best", "minimize": "the smallest is best"}

Wide = Annotated[int | float, Field(ge=-1.7e308, le=1.7e308)]  # a search may try what fails
Value = bool | Wide | Annotated[str, Field(max_length=500)]


class Range(Strict):
    """Numbers from low to high."""

    type: Literal["float", "int"]
    low: Wide
    high: Wide
    scale: Literal["linear", "log"] = "linear"

    def holds(self, value: Value) -> bool:
        """Whether a trial can have had it; the ends are those of floats."""
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
        return self.low <= number <= self.high and (self.scale != "log" or number > 0)


class Choices(Strict):
    """One of a few values."""

    type: Literal["choice"]
    choices: tuple[Value, ...]

    def holds(self, value: Value) -> bool:
        """Whether a trial can have had it."""
        return str(value) in map(str, self.choices)


class Trial(Strict):
    """How a trial ended, with what settings; values where it was judged."""

    number: Whole
    state: Literal["complete", "pruned", "fail"]
    settings: dict[Text, Value]
    values: tuple[Real, ...] | None
    epochs: Number | None = None
    given: bool
    same_as: Whole | None = None
    refused: str | None = None
    error: str | None = None


class Chooser(Strict):
    """A sampler or a pruner: its name, and whole numbers."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Whole] = Field(init=False)
    name: Text


class StudyFile(ResultFile):
    """The outcome of a study, as study/outcome.py writes it."""

    study: Name
    experiment: Name
    row: Name
    search: dict[Text, Annotated[Range | Choices, Field(discriminator="type")]]
    seeds: tuple[Whole, ...]
    objectives: Annotated[tuple[Name, ...], Field(min_length=1, max_length=2)]
    directions: tuple[Literal["maximize", "minimize"], ...]
    surface: tuple[Text, Text] | None
    sampler: Chooser
    pruner: Chooser
    protocol: Text
    configuration: str | None = None
    overrides: Mapping[Text, Any] = Field(default_factory=dict)
    epochs: Whole | None = None
    planned: Whole | None = None
    state: str = "finished"
    trials: tuple[Trial, ...]
    best: tuple[Whole, ...]
    importances: dict[Name, dict[Text, Annotated[float, Field(ge=0, le=1e6)]]] | None
    evaluator: Text

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        numbers = [trial.number for trial in self.trials]
        complete = {trial.number for trial in self.trials if trial.state == "complete"}
        if len(set(numbers)) < len(numbers):
            raise ValueError("trials: a number given twice; allowed: distinct numbers")
        if not set(self.best) <= complete:
            raise ValueError(f"best: {list(self.best)[:20]} given; allowed: numbers of complete trials")
        if len(self.directions) != len(self.objectives) or len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"directions: {len(self.directions)} given; allowed: one for each distinct objective")
        for where, keys in (
            ("surface", self.surface or ()),
            *((f"importances.{k}", v) for k, v in (self.importances or {}).items()),
        ):
            if unknown := [key for key in keys if key not in self.search]:
                raise ValueError(f"{where}: {unknown[0]} given; allowed: {', '.join(self.search)}")
        for trial in self.trials:
            if trial.values is not None and len(trial.values) != len(self.objectives):
                raise ValueError(f"trials.{trial.number}.values: {len(trial.values)} given; allowed: one an objective")
            if trial.state == "complete" and (trial.values is None or set(trial.settings) != set(self.search)):
                raise ValueError(f"trials.{trial.number}: complete without a value or a setting; allowed: all of them")
            for key, value in trial.settings.items():
                if key in self.search and not self.search[key].holds(value):
                    raise ValueError(
                        f"trials.{trial.number}.settings.{key}: {value!r} given; allowed: what is searched"
                    )
        return self


@dataclass(frozen=True)
class Found:
    """The outcome of one study.

    Attributes:
        name: of the file.
        file: its contents, typed; `plain` as they are in JSON.
    """

    name: str
    file: StudyFile

    @classmethod
    def read(cls, path: Path) -> "Found":
        """Read the file of a study. Raises ValueError when it is broken, in one line."""
        try:
            name = TypeAdapter(Name).validate_python(path.stem)
        except ValidationError:
            raise ValueError(
                f"{shown(str(path))}: a study's file with this name given; allowed: no / and controls"
            ) from None
        return cls(name, read_typed(StudyFile, path))

    @property
    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return self.file.model_dump(mode="json", exclude_unset=True)

    @property
    def complete(self) -> list[Trial]:
        """Trials with a value."""
        return [trial for trial in self.file.trials if trial.state == "complete"]

    @property
    def best(self) -> list[Trial]:
        """The winner, or the Pareto front."""
        return [trial for trial in self.complete if trial.number in self.file.best]

    def setting(self, key: str) -> Setting:
        """One searched key over the complete trials."""
        chosen = self.file.search[key]
        categories = tuple(map(str, chosen.choices)) if isinstance(chosen, Choices) else None
        log = isinstance(chosen, Range) and chosen.scale == "log"
        return Setting(shown(key), [trial.settings[key] for trial in self.complete], log, categories)

    @property
    def summary(self) -> str:
        """How it was judged, and what sets it apart from the study file's own: no end yet, or other settings."""
        file = self.file
        states = [trial.state for trial in file.trials]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        best = [
            f"{name} ({_BEST[direction]})" for name, direction in zip(file.objectives, file.directions, strict=True)
        ]
        epochs = "" if file.epochs is None else f", {file.epochs} epochs each"
        said = f"{len(states)} trials: {counts}. Objective: {', '.join(best)}; {file.protocol}; mean over seeds "
        said += f"{', '.join(map(str, file.seeds))}{epochs}. Sampler {file.sampler.name}, pruner {file.pruner.name}, "
        said += f"row {file.row}."
        if file.state != "finished":
            said += f" Unfinished: {len(states)} of {file.planned} trials have ended."
        if file.overrides:
            said += f" Not the files' settings: {', '.join(f'{key} {value}' for key, value in file.overrides.items())}."
        return shown(said, 1000)


def read_searches(folder: Path | None) -> list[Found]:
    """Every outcome in a folder, by name; none where there is no folder."""
    return [Found.read(path) for path in sorted(folder.glob("*.json"))] if folder else []


def figures_of(found: Found) -> dict[str, bytes]:
    """File name -> PNG: of each objective importances, slices and the surface; of two objectives their front."""
    file, drawn = found.file, dict[str, bytes]()
    numbers = [trial.number for trial in found.complete]
    best = [numbers.index(number) for number in file.best]
    values = np.array([trial.values for trial in found.complete])
    if numbers and len(file.objectives) == 2:
        largest = file.directions[0] == "maximize"
        drawn["front.png"] = front(values, objectives=file.objectives, largest=largest, best=best, numbers=numbers)
    for place, objective in enumerate(file.objectives):
        suffix = f"_{objective}" if len(file.objectives) > 1 else ""
        if importances := (file.importances or {}).get(objective):
            ranked = {shown(key): value for key, value in importances.items()}
            drawn[f"importances{suffix}.png"] = importance_bars(ranked, evaluator=f"{file.evaluator}, {objective}")
        if not numbers:
            continue
        told: dict[str, Any] = {"objective": objective, "best": best}
        drawn[f"slices{suffix}.png"] = slices([found.setting(key) for key in file.search], values[:, place], **told)
        if file.surface:
            across, along = map(found.setting, file.surface)
            sign = 1 if file.directions[place] == "maximize" else -1
            drawn[f"surface{suffix}.png"] = surface(across, along, values[:, place], sign=sign, **told)
    return drawn


_CAPTIONS = {
    "front": "The two objectives against each other: no trial on the line is beaten in both. The numbers are "
    "the trials'.",
    "importances": "Importances sum to one; the title names the evaluator and the objective.",
    "slices": "The objective against each setting; diamonds are the best trials. Trials crowd where the sampler "
    "expected most.",
    "surface": "The objective over two settings (the supplementary's Fig. 8): dots are trials, of several at one place "
    "the best; colours between them are interpolated while all other settings vary; diamonds are the best trials.",
}


def section_of(found: Found, drawn: Mapping[str, bytes]) -> dict[str, Any]:
    """What the page says of a study: its name, the best trials and the points its file gave, charts with captions."""
    captions = {Path(name).stem: _CAPTIONS[Path(name).stem.partition("_")[0]] for name in drawn}
    return {"name": shown(found.name), "sheet": search_sheet(found), "charts": drawn, "captions": captions}


def search_sheet(found: Found) -> Sheet:
    """The best trials, and the other points that the study's file gave."""
    given = [trial for trial in found.file.trials if trial.given and trial not in found.best]
    groups = {"Best": found.best, "Other points given by the file": given}
    return _sheet(found, {title: trials for title, trials in groups.items() if trials}, [found.summary, NOTE])


def every_trial(found: Found) -> Sheet:
    """A line a trial, for CSV: how it ended, its settings, its values."""
    return _sheet(found, {"": found.file.trials}, [])


def _sheet(found: Found, groups: Mapping[str, Sequence[Trial]], notes: Sequence[str]) -> Sheet:
    file = found.file
    headings = [Heading("Trial", left=True, fields=("trial", "state", "given", "best"))]
    headings += [Heading(shown(key), fields=(key,)) for key in (*file.search, *file.objectives)]

    def line(trial: Trial) -> list[Cell]:
        is_best, name = trial.number in file.best, f"{trial.number}{' (given)' * trial.given}"
        cells = [Cell(name, values=(trial.number, trial.state, trial.given, is_best))]
        settings = [trial.settings.get(key) for key in file.search]
        values = trial.values or [None] * len(file.objectives)
        cells += [Cell(_text(value), values=(value,)) for value in (*settings, *values)]
        if trial.values is None:
            cells[1 + len(settings)] = Cell(trial.state)
        return cells

    stamps = {"seeds": " ".join(map(str, file.seeds)), "protocol": file.protocol}
    return Sheet(headings, [(title, [line(t) for t in trials]) for title, trials in groups.items()], notes, stamps)


def _text(value: Value | None) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else shown(str(value))
