"""What a stage says of itself. Every driver (DVC, MLflow, the command line, the dry run, the pipeline) reads this."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from attndistill.stages.layout import MODELS, Layout
from attndistill.stages.outside import Outside

if TYPE_CHECKING:
    from attndistill.config import Config
    from attndistill.stages.context import Context

Over = Literal["nothing", "pretrained", "row", "model", "download", "export"]
ASKED: tuple[Over, ...] = ("download", "export")  # over what settings name for it
OPTIONS: dict[Over, str] = {
    "pretrained": "model",
    "model": "model",
    "row": "row",
    "download": "name",
    "export": "model",
}


class Item(NamedTuple):
    """What one run of a stage works on: a model, row or download by name, and the data set ("" is the experiment's)."""

    name: str = ""
    data: str = ""

    @property
    def label(self) -> str:
        """For people, and in file names: "attndistill", "attndistill@cifar", or nothing."""
        return "@".join(filter(None, self))


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline, declared in a module of its own beside the function that does it.

    Attributes:
        name: of the command, the DVC stage and the MLflow entry point.
        summary: what it does, for `--help` and the README.
        run: does it; imports what it computes with.
        sections: of the configuration, on which the result depends, of an item.
        inputs: files and folders that it reads, of an item.
        outputs: files and folders that it writes, of an item. Those under results/ are small and kept by git.
        over: what it is repeated over.
        judges: whether it is repeated over the experiment's further data sets too (`datasets`).
        outside: what it reads that no stage makes.
        estimate: "module:function" that says what a run would cost: (item, configuration, Plan) -> Estimate.
        light: whether it does without torch, whose import takes seconds.
        distributed: whether several processes (ranks) share the work.
        report: whether it watches the whole rows file: labels, groups and claims.
    """

    name: str
    summary: str
    run: Callable[["Context"], None]
    sections: Callable[[Item], Sequence[str]]
    inputs: Callable[[Layout, Item], list[Path]]
    outputs: Callable[[Layout, Item], list[Path]]
    over: Over = "nothing"
    judges: bool = False
    outside: Callable[["Config", Item], list[Outside]] = lambda config, item: []
    estimate: str = ""
    light: bool = False
    distributed: bool = False
    report: bool = False

    @property
    def module(self) -> str:
        """Where it is declared and done."""
        return self.run.__module__

    @property
    def option(self) -> str:
        """The word by which its item is named on the command line; empty for a stage without one."""
        return OPTIONS.get(self.over, "")

    def names(self, rows: Sequence[str], asked: Mapping[str, Sequence[str]] = MappingProxyType({})) -> tuple[str, ...]:
        """The items' names in an experiment with these rows; `asked`: of the stages over `ASKED`."""
        kinds: dict[Over, Sequence[str]] = {
            "nothing": ("",),
            "pretrained": MODELS,
            "row": rows,
            "model": (*MODELS, *rows),
            **{kind: asked.get(kind, ()) for kind in ASKED},
        }
        return tuple(kinds[self.over])

    def items(
        self,
        rows: Sequence[str],
        datasets: Sequence[str] = (),
        asked: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> tuple[Item, ...]:
        """Everything it works on in such an experiment, the experiment's own data first."""
        names = self.names(rows, asked)
        return tuple(Item(name, data) for data in ("", *datasets) if not data or self.judges for name in names)

    def estimated(self, item: Item, config: "Config", plan: Any) -> Any:
        """What a run would cost."""
        module, _, function = self.estimate.partition(":")
        return getattr(importlib.import_module(module), function)(item, config, plan)


def seeds(item: Item) -> str:
    """The section with an item's seeds: the teacher is one model, everything else is repeated."""
    return "teacher_seed" if item.name == "teacher" else "seeds"


def data_sections(item: Item) -> tuple[str, ...]:
    """The sections that say how an item's data is viewed."""
    return (f"datasets.{item.data}.views",) if item.data else ("views",)
