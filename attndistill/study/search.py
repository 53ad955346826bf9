"""A study in its storage: its name, what that name depends on, and where its trials work."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from attndistill.core.artifacts import digest_of
from attndistill.stages.context import Context
from attndistill.stages.layout import MODELS, Layout
from attndistill.study.definition import Value
from attndistill.study.plan import Plan
from attndistill.study.storage import Place
from attndistill.tracking import Recorder
from attndistill.tracking.spool import work_folder


@dataclass(frozen=True)
class TrialLayout(Layout):
    """The experiment's data, teacher and targets; the student and all that is found about it in a folder of its own."""

    folder: Path

    def model(self, name: str) -> Path:
        return super().model(name) if name in MODELS else self.folder / "model"

    def attention(self, name: str) -> Path:
        return self.folder / "attention"

    def result(self, kind: str, name: str) -> Path:
        return self.folder / "results" / f"{kind}{Path(name).suffix}"

    def work(self, stage: str, digest: str) -> Path:
        return self.folder / "checkpoint" / digest[:16]


@dataclass(frozen=True)
class Search:
    """A study in its storage.

    Attributes:
        plan: the study file on its experiment.
        name: of the study in the storage: experiment, file and a digest of all that a trial's figures depend on.
        place: the storage.
        lineage: where the study's own recording on this machine keeps what led to it; None where nothing is recorded.
    """

    plan: Plan
    name: str
    place: Place
    lineage: Path | None = None

    @classmethod
    def of(cls, plan: Plan, place: Place) -> "Search":
        """Name the study. Raises ValueError when data, teacher or targets are missing."""
        experiment = plan.experiment
        layout = Layout(experiment.root, experiment.name)
        missing = missing_inputs(layout)
        if missing is not None:
            raise ValueError(f"study: {missing} does not exist: run the stage that makes it first")
        inputs = Context(plan.config({}), layout, "study", "", experiment.file, Recorder(None)).targets_identity
        digest = digest_of({"configuration": plan.configuration, "inputs": inputs})[:8]
        return cls(plan, f"{experiment.name}-{plan.name}-{digest}", place)

    @property
    def digest(self) -> str:
        """The end of its name, which tells studies of one file apart."""
        return self.name.rpartition("-")[2]

    @property
    def folder(self) -> Path:
        """Where its trials work."""
        return work_folder(self.plan.experiment.root) / "study" / self.name

    def trial_folder(self, point: Mapping[str, Value]) -> Path:
        """Where one trial works, named by its settings."""
        return self.folder / digest_of(dict(point))[:16]

    def forget(self, point: Mapping[str, Value]) -> None:
        """Remove what a finished trial worked on: its figures and pictures are in the storage."""
        shutil.rmtree(self.trial_folder(point), ignore_errors=True)


def inputs_of(layout: Layout) -> list[Path]:
    """What every trial of an experiment reads."""
    return [layout.data, layout.model("teacher"), layout.targets]


def missing_inputs(layout: Layout) -> Path | None:
    """The first of them that is not there, relative to the root."""
    gone = [path.relative_to(layout.root) for path in inputs_of(layout) if not path.exists()]
    return gone[0] if gone else None
