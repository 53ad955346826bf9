"""What searches found: tables and figures of studies. Everything is drawn from the one file of each."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attndistill.core.words import shown
from attndistill.figures.search import Setting, front, importance_bars, slices, surface
from attndistill.outcomes import Choices, Outcome, Range, Trial, Value
from attndistill.report.sheet import Cell, Heading, Sheet

NOTE = (
    "Trials are judged on the validation part of train; nothing is chosen on test, and a figure here is no figure of "
    "the main table. One split judges every trial, so the best of many is a little lucky."
)
_BEST = {"maximize": "the largest is best", "minimize": "the smallest is best"}


def figures_of(found: Outcome) -> dict[str, bytes]:
    """File name -> PNG: of each objective importances, slices and the surface; of two objectives their front."""
    drawn = dict[str, bytes]()
    numbers = [trial.number for trial in found.complete]
    best = [numbers.index(number) for number in found.best]
    values = np.array([trial.values for trial in found.complete])
    if numbers and len(found.objectives) == 2:
        largest = found.directions[0] == "maximize"
        drawn["front.png"] = front(values, objectives=found.objectives, largest=largest, best=best, numbers=numbers)
    for place, objective in enumerate(found.objectives):
        suffix = f"_{objective}" if len(found.objectives) > 1 else ""
        if importances := (found.importances or {}).get(objective):
            ranked = {shown(key): value for key, value in importances.items()}
            each = [one[objective] for one in found.importances_by_seed if objective in one]
            by_seed = {shown(key): [one.get(key, 0.0) for one in each] for key in importances}
            told_by = f"{found.evaluator}, {objective}"
            drawn[f"importances{suffix}.png"] = importance_bars(ranked, by_seed, evaluator=told_by)
        if not numbers:
            continue
        told: dict[str, Any] = {"objective": objective, "best": best}
        drawn[f"slices{suffix}.png"] = slices([_setting(found, key) for key in found.search], values[:, place], **told)
        if found.surface:
            across, along = (_setting(found, key) for key in found.surface)
            sign = 1 if found.directions[place] == "maximize" else -1
            drawn[f"surface{suffix}.png"] = surface(across, along, values[:, place], sign=sign, **told)
    return drawn


_CAPTIONS = {
    "front": "The two objectives against each other: no trial on the line is beaten in both. The numbers are "
    "the trials'.",
    "importances": "Importances sum to one; the title names the evaluator and the objective. Circles: by the figures "
    "of each seed alone; where they lie far apart, the importances are chance.",
    "slices": "The objective against each setting; diamonds are the best trials. Trials crowd where the sampler "
    "expected most.",
    "surface": "The objective over two settings (the supplementary's Fig. 8): dots are trials, of several at one place "
    "the best; colours between them are interpolated while all other settings vary; diamonds are the best trials.",
}


def section_of(found: Outcome, drawn: Mapping[str, bytes]) -> dict[str, Any]:
    """What the page says of a study: its name, the best trials and the points its file gave, charts with captions."""
    captions = {Path(name).stem: _CAPTIONS[Path(name).stem.partition("_")[0]] for name in drawn}
    return {"name": shown(found.study), "sheet": search_sheet(found), "charts": drawn, "captions": captions}


def search_sheet(found: Outcome) -> Sheet:
    """The best trials, and the other points that the study's file gave."""
    given = [trial for trial in found.trials if trial.given and trial not in found.winners]
    groups = {"Best": found.winners, "Other points given by the file": given}
    return _sheet(found, {title: trials for title, trials in groups.items() if trials}, [_summary(found), NOTE])


def every_trial(found: Outcome) -> Sheet:
    """A line a trial, for CSV: how it ended, its settings, its values."""
    return _sheet(found, {"": found.trials}, [])


def _sheet(found: Outcome, groups: Mapping[str, Sequence[Trial]], notes: Sequence[str]) -> Sheet:
    headings = [Heading("Trial", left=True, fields=("trial", "state", "given", "best"))]
    headings += [Heading(shown(key), fields=(key,)) for key in (*found.search, *found.objectives)]

    def line(trial: Trial) -> list[Cell]:
        is_best, name = trial.number in found.best, f"{trial.number}{' (given)' * trial.given}"
        cells = [Cell(name, values=(trial.number, trial.state, trial.given, is_best))]
        settings = [trial.settings.get(key) for key in found.search]
        values: Sequence[float | None] = trial.values or [None] * len(found.objectives)
        cells += [Cell(_text(value), values=(value,)) for value in (*settings, *values)]
        if trial.values is None:
            cells[1 + len(settings)] = Cell(trial.state)
        return cells

    stamps = {"seeds": " ".join(map(str, found.seeds)), "protocol": found.protocol}
    return Sheet(headings, [(title, [line(t) for t in trials]) for title, trials in groups.items()], notes, stamps)


def _text(value: Value | None) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else shown(str(value))


def _setting(found: Outcome, key: str) -> Setting:
    """One searched key over the complete trials."""
    chosen = found.search[key]
    categories = tuple(map(str, chosen.choices)) if isinstance(chosen, Choices) else None
    log = isinstance(chosen, Range) and chosen.scale == "log"
    return Setting(shown(key), [trial.settings[key] for trial in found.complete], log, categories)


def _summary(found: Outcome) -> str:
    """How it was judged, and what sets it apart from the study file's own: no end yet, or other settings."""
    states = [trial.state for trial in found.trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    best = [f"{name} ({_BEST[direction]})" for name, direction in zip(found.objectives, found.directions, strict=True)]
    epochs = "" if found.epochs is None else f", {found.epochs} epochs each"
    said = f"{len(states)} trials: {counts}. Objective: {', '.join(best)}; {found.protocol}; mean over seeds "
    said += f"{', '.join(map(str, found.seeds))}{epochs}. Sampler {found.sampler.name}, pruner {found.pruner.name}, "
    said += f"row {found.row}."
    if found.state != "finished":
        said += f" Unfinished: {len(states)} of {found.planned} trials have ended."
    if found.overrides:
        said += f" Not the files' settings: {', '.join(f'{key} {value}' for key, value in found.overrides.items())}."
    return shown(said, 1000)
