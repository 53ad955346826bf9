"""Evaluations: how good a model is, by named and versioned protocols. One registered entry is the whole declaration.

An entry's decorator states what the drivers say of it: `title` (of the report's column), `on` (what it is given: a
model's frozen "features", the "model" itself, the "pair" of student and teacher, or the "maps" of its attention beside
the teacher's) and, where they are not top-1 and top-5, its `figures`. Settings, command line, results, report, studies
and the dry run follow from that.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Protocol

from attndistill.core.registry import Registry

EVALUATIONS: Registry[Any] = Registry("evaluation", "attndistill.evaluations")


@dataclass(frozen=True)
class Figure:
    """One number of an evaluation.

    Attributes:
        title: of its column ("top-1").
        unit: as printed: "%", "nats", "" for a plain number.
        direction: which way is better, in Optuna's words.
        digits: after the point, where people read it.
    """

    title: str
    unit: str
    direction: Literal["maximize", "minimize"]
    digits: int


class Result(Protocol):
    """What an entry returns for one model: figures by the names that it declares, and what a sweep chose."""

    protocol: str
    chosen: dict[str, float]
    sweep: dict[str, float]

    @property
    def figures(self) -> dict[str, float]:
        """By name."""
        ...


ACCURACY = {"top1": ("top-1", "%", "maximize", 1), "top5": ("top-5", "%", "maximize", 1)}


@dataclass(frozen=True)
class Evaluation:
    """What is known of an evaluation without importing its code.

    Attributes:
        name: in settings, result files and column names.
        title: for people.
        on: what it is given: "features", "model", "pair" (the student, its teacher) or "maps".
        trains: of one on the model, what learns: a "head", or the "backbone" too.
        figures: by name, in the order of their columns.
    """

    name: str
    title: str
    on: Literal["features", "model", "pair", "maps"]
    figures: Mapping[str, Figure]
    trains: Literal["head", "backbone"] = "head"

    @property
    def labels(self) -> bool:
        """Whether it asks for labels; what compares a student with its teacher asks for none."""
        return self.on in ("features", "model")

    def key(self, figure: str) -> str:
        """The name of a figure among those of all evaluations: "knn_top1", "kl_to_teacher"."""
        return figure if self.on == "maps" else f"{self.name}_{figure}"


@cache
def evaluations() -> dict[str, Evaluation]:
    """Every registered evaluation by name, in the order of their columns."""
    found = []
    for name in EVALUATIONS.names():
        facts = EVALUATIONS.facts_of(name)
        figures = {key: Figure(*told) for key, told in facts.get("figures", ACCURACY).items()}
        found.append(
            Evaluation(name, facts["title"], facts.get("on", "features"), figures, facts.get("trains", "head"))
        )
    order = ("features", "model", "pair", "maps")
    return {one.name: one for one in sorted(found, key=lambda one: order.index(one.on))}
