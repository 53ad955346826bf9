"""What searches found: the file of a study, and its figures. Everything is drawn from that one file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attndistill.core.artifacts import read_json
from attndistill.figures.search import Setting, importance_bars, slices, surface


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


def read_searches(folder: Path) -> list[Found]:
    """Every outcome in a folder, by name; none where there is no folder."""
    return [Found.read(path) for path in sorted(folder.glob("*.json"))]


def figures_of(found: Found) -> dict[str, bytes]:
    """File name -> PNG: importances, slices and the surface, for the first objective (importances: for each)."""
    drawn: dict[str, bytes] = {}
    objectives, evaluator = found.plain["objectives"], found.plain["evaluator"]
    for objective, values in (found.plain["importances"] or {}).items():
        suffix = f"_{objective}" if len(objectives) > 1 else ""
        drawn[f"importances{suffix}.png"] = importance_bars(values, evaluator=f"{evaluator}, {objective}")
    complete = found.complete
    if not complete:
        return drawn
    place = [trial["number"] for trial in complete].index(found.best[0]["number"])
    values = np.array([trial["values"][0] for trial in complete])
    settings = [found.setting(key) for key in found.plain["search"]]
    drawn["slices.png"] = slices(settings, values, objective=objectives[0], best=place)
    if found.plain["surface"]:
        across, along = (found.setting(key) for key in found.plain["surface"])
        drawn["surface.png"] = surface(across, along, values, objective=objectives[0], best=place)
    return drawn


def best_lines(found: Found) -> list[dict[str, str]]:
    """The best trials for a table: number, settings, values, and whether the point was given."""
    return [_line(found.plain["objectives"], trial) for trial in found.best]


def given_lines(found: Found) -> list[dict[str, str]]:
    """The points that the study file gave (the paper's grid), in its order."""
    return [_line(found.plain["objectives"], trial) for trial in found.plain["trials"] if trial["given"]]


def _line(objectives: Sequence[str], trial: dict[str, Any]) -> dict[str, str]:
    settings = ", ".join(f"{key} = {_shown(value)}" for key, value in trial["settings"].items())
    values = trial["values"] or []
    told = ", ".join(f"{name} {_shown(value)}" for name, value in zip(objectives, values, strict=False))
    return {"number": str(trial["number"]), "settings": settings, "values": told or trial["state"]}


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
