"""What searches found: the file of a study, and its figures. Everything is drawn from that one file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attndistill.core.artifacts import read_json
from attndistill.figures.search import Setting, front, importance_bars, slices, surface
from attndistill.report.sheet import Cell, Heading, Sheet, as_csv

NOTE = (
    "Trials are judged on the validation part of train; nothing is chosen on test, and a figure here is no figure of "
    "the main table. One split judges every trial, so the best of many is a little lucky."
)
_BEST = {"maximize": "the largest is best", "minimize": "the smallest is best"}


@dataclass(frozen=True)
class Found:
    """The outcome of one study.

    Attributes:
        name: of the study file.
        plain: the file's contents.
    """

    name: str
    plain: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Found":
        """Read the file of a study. Raises ValueError when it is broken."""
        plain = read_json(path)
        lacking = {"study", "trials", "best", "objectives", "search", "importances", "evaluator"} - set(plain)
        if lacking:
            raise ValueError(f"{path} is not the outcome of a study: it lacks {', '.join(sorted(lacking))}")
        return cls(plain["study"], plain)

    @property
    def complete(self) -> list[dict[str, Any]]:
        """Trials with a value."""
        return [trial for trial in self.plain["trials"] if trial["state"] == "complete"]

    @property
    def best(self) -> list[dict[str, Any]]:
        """The winner, or the Pareto front."""
        return [trial for trial in self.complete if trial["number"] in self.plain["best"]]

    def setting(self, key: str) -> Setting:
        """One searched key over the complete trials."""
        chosen = self.plain["search"][key]
        categories = tuple(map(str, chosen["choices"])) if chosen["type"] == "choice" else None
        values = [trial["settings"][key] for trial in self.complete]
        return Setting(key, values, chosen.get("scale") == "log", categories)

    def counts(self) -> str:
        """'40 trials: 31 complete, 9 pruned'."""
        states = [trial["state"] for trial in self.plain["trials"]]
        told = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        return f"{len(states)} trials: {told}"

    def warnings(self) -> str:
        """What sets the outcome apart from the study file's own: an end that has not come, other settings."""
        said = ""
        if self.plain.get("state", "finished") != "finished":
            said += f" Unfinished: {len(self.plain['trials'])} of {self.plain['planned']} trials have ended."
        if self.plain.get("overrides"):
            settings = ", ".join(f"{key} {value}" for key, value in self.plain["overrides"].items())
            said += f" Not the files' settings: {settings}."
        return said


def read_searches(folder: Path) -> list[Found]:
    """Every outcome in a folder, by name; none where there is no folder."""
    return [Found.read(path) for path in sorted(folder.glob("*.json"))]


def figures_of(found: Found) -> dict[str, bytes]:
    """File name -> PNG: of each objective importances, slices and the surface; of two objectives their front."""
    drawn: dict[str, bytes] = {}
    objectives, evaluator = found.plain["objectives"], found.plain["evaluator"]
    numbers = [trial["number"] for trial in found.complete]
    best = [numbers.index(number) for number in found.plain["best"]]
    values = np.array([trial["values"] for trial in found.complete])
    if numbers and len(objectives) == 2:
        largest = found.plain["directions"][0] == "maximize"
        drawn["front.png"] = front(values, objectives=objectives, largest=largest, best=best, numbers=numbers)
    for place, objective in enumerate(objectives):
        suffix = f"_{objective}" if len(objectives) > 1 else ""
        if objective in (found.plain["importances"] or {}):
            importances = found.plain["importances"][objective]
            drawn[f"importances{suffix}.png"] = importance_bars(importances, evaluator=f"{evaluator}, {objective}")
        if not numbers:
            continue
        told: dict[str, Any] = {"objective": objective, "best": best}
        settings = [found.setting(key) for key in found.plain["search"]]
        drawn[f"slices{suffix}.png"] = slices(settings, values[:, place], **told)
        if found.plain["surface"]:
            across, along = map(found.setting, found.plain["surface"])
            sign = 1 if found.plain["directions"][place] == "maximize" else -1
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
    """What the page says of a study: name, how it was judged, the best trials, the points its file gave, charts."""
    plain = found.plain
    objectives = ", ".join(
        f"{name} ({_BEST[direction]})" for name, direction in zip(plain["objectives"], plain["directions"], strict=True)
    )
    seeds = ", ".join(map(str, plain["seeds"]))
    epochs = f", {plain['epochs']} epochs each" if "epochs" in plain else ""
    given = [trial for trial in plain["trials"] if trial["given"] and trial not in found.best]
    return {
        "name": found.name,
        "summary": f"{found.counts()}. Objective: {objectives}; {plain['protocol']}; mean over seeds {seeds}{epochs}. "
        f"Sampler {plain['sampler']['name']}, pruner {plain['pruner']['name']}, row {plain['row']}.{found.warnings()}",
        "keys": list(plain["search"]),
        "objectives": plain["objectives"],
        "groups": {
            title: [_line(plain, trial) for trial in trials]
            for title, trials in {"Best": found.best, "Other points given by the file": given}.items()
            if trials
        },
        "charts": drawn,
        "captions": {name: _CAPTIONS[name.partition("_")[0]] for name in (Path(file).stem for file in drawn)},
    }


def search_csv(found: Found) -> str:
    """One line a trial, at full precision: how it ended, its settings, its values."""
    plain = found.plain
    head = ["trial", "state", "given", "best", *plain["search"], *plain["objectives"], "epochs", "seeds", "protocol"]
    lines: list[list[Any]] = [head]
    for trial in plain["trials"]:
        line = [trial["number"], trial["state"], trial["given"], trial["number"] in plain["best"]]
        line += [trial["settings"].get(key) for key in plain["search"]]
        line += trial["values"] or [None] * len(plain["objectives"])
        lines.append([*line, trial.get("epochs"), " ".join(map(str, plain["seeds"])), plain["protocol"]])
    return as_csv(lines)


def search_sheet(section: Mapping[str, Any]) -> Sheet:
    """The trials that the page prints, from what the page says of a study."""
    headings = [Heading("Trial", left=True), *map(Heading, (*section["keys"], *section["objectives"]))]
    groups = []
    for title, trials in section["groups"].items():
        names = [f"{trial['number']}{' (given)' * trial['given']}" for trial in trials]
        texts = [[name, *trial["settings"], *trial["values"]] for name, trial in zip(names, trials, strict=True)]
        groups.append((title, [[Cell(text) for text in line] for line in texts]))
    return Sheet(headings, groups, [section["summary"], NOTE])


def _line(plain: dict[str, Any], trial: dict[str, Any]) -> dict[str, Any]:
    """A trial as texts: its settings in the file's order, its values or why it has none."""
    values = [_shown(value) for value in trial["values"] or ()]
    return {
        "number": trial["number"],
        "given": trial["given"],
        "settings": [_shown(trial["settings"].get(key, "")) for key in plain["search"]],
        "values": values or [trial["state"], *([""] * (len(plain["objectives"]) - 1))],
    }


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
