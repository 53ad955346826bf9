"""The table of stages: what each needs, makes and depends on. dvc.yaml and MLproject are held against it by a test."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from attndistill.stages.layout import MODELS, Layout

if TYPE_CHECKING:
    from attndistill.stages.context import Context

Paths = Callable[[Layout, str], list[Path]]


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline.

    Attributes:
        name: of the command, the DVC stage and the MLflow entry point.
        summary: for `--help`.
        function: "module:function", imported when it runs.
        item: what it works on: a pre-trained model, a row, any of both, a download, or nothing.
        sections: of the configuration, on which its result depends, of an item.
        inputs: files and directories it reads, of an item.
        outputs: files and directories it writes, of an item.
        distributed: whether several processes (ranks) share the work.
    """

    name: str
    summary: str
    function: str
    item: Literal["", "pretrained", "row", "model", "download"]
    sections: Callable[[str], tuple[str, ...]]
    inputs: Paths
    outputs: Paths
    distributed: bool = False

    @property
    def module(self) -> str:
        """Where its function is."""
        return self.function.partition(":")[0]

    def run(self, context: "Context") -> None:
        """Import the stage's function and call it."""
        getattr(importlib.import_module(self.module), self.function.partition(":")[2])(context)

    def items(self, rows: tuple[str, ...], downloads: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Everything the stage works on in an experiment with these rows and downloads."""
        kinds = {"": ("",), "pretrained": MODELS, "row": rows, "model": (*MODELS, *rows), "download": downloads}
        return kinds[self.item]


def _training_results(layout: Layout, item: str) -> list[Path]:
    return [layout.result("training", f"{item}.json"), layout.result("training", f"{item}.csv")]


def _seeds(item: str) -> str:
    return "teacher_seed" if item == "teacher" else "seeds"


def _report_inputs(layout: Layout, _: str) -> list[Path]:
    kinds = ("attention", "pretrain_probe", "probes", "training")
    searches = [layout.searches] if layout.searches.exists() else []  # a project need not search anything
    return [layout.data, *searches, layout.outputs / "attention", *(layout.results / kind for kind in kinds)]


STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            "fetch",
            "one file from elsewhere, by its SHA-256",
            "attndistill.stages.fetch:fetch",
            "download",
            lambda item: (f"downloads.{item}",),
            lambda layout, _: [],
            lambda layout, item: [layout.download(item)],
        ),
        Stage(
            "prepare",
            "the data set as a few files, with a digest and a manifest",
            "attndistill.stages.prepare:prepare",
            "",
            lambda _: ("data",),
            lambda layout, _: [],
            lambda layout, _: [layout.data],
        ),
        Stage(
            "pretrain",
            "masked autoencoding: the teacher, or the student from scratch",
            "attndistill.stages.pretrain:pretrain",
            "pretrained",
            lambda item: (_seeds(item), "views", "pretrain", "teacher" if item == "teacher" else "student"),
            lambda layout, _: [layout.data],
            lambda layout, item: [
                layout.model(item),
                *_training_results(layout, item),
                layout.result("pretrain_probe", f"{item}.csv"),
            ],
            distributed=True,
        ),
        Stage(
            "targets",
            "the teacher's class token and attention for every view",
            "attndistill.stages.targets:targets",
            "",
            lambda _: ("teacher_seed", "views", "targets"),
            lambda layout, _: [layout.data, layout.model("teacher")],
            lambda layout, _: [layout.targets],
        ),
        Stage(
            "distill",
            "one row: distil the teacher into a student",
            "attndistill.stages.distill:distill",
            "row",
            lambda _: ("seeds", "teacher_seed", "views", "student", "targets", "distill"),
            lambda layout, _: [layout.data, layout.model("teacher"), layout.targets],
            lambda layout, item: [layout.model(item), *_training_results(layout, item)],
            distributed=True,
        ),
        Stage(
            "probe",
            "k-NN, logistic regression and, where asked for, a linear probe on frozen features",
            "attndistill.stages.probing:probe",
            "model",
            lambda item: (_seeds(item), "views", "probe"),
            lambda layout, item: [layout.data, layout.model(item)],
            lambda layout, item: [layout.result("probes", f"{item}.json")],
        ),
        Stage(
            "attention",
            "attention pictures beside the teacher's, and the distance between them",
            "attndistill.stages.attention:attention",
            "model",
            lambda _: ("seeds", "teacher_seed", "views", "attention"),
            lambda layout, item: list(dict.fromkeys([layout.data, layout.model("teacher"), layout.model(item)])),
            lambda layout, item: [layout.attention(item), layout.result("attention", f"{item}.json")],
        ),
        Stage(
            "report",
            "tables, figures and one page that works offline",
            "attndistill.stages.report:report",
            "",
            lambda _: ("seeds", "views", "teacher", "student", "pretrain", "targets", "distill"),
            _report_inputs,
            lambda layout, _: [layout.report, layout.result("report", "table.json")],
        ),
    )
}
