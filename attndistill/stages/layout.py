"""Where everything lies: an experiment is a folder that stands alone, with its settings, rows, outputs and results."""

from dataclasses import dataclass, field
from pathlib import Path

from attndistill.core.places import state_folder

MODELS = ("teacher", "scratch")  # pre-trained by masked autoencoding; every other model is a distilled row


@dataclass(frozen=True)
class Layout:
    """The paths of one experiment.

    Attributes:
        folder: of the experiment: params.yaml, rows.yaml, dvc.yaml, MLproject, outputs/ (DVC's), results/ (git's).
        experiment: its name.
        shared: further data sets that are the experiment's own images, judged in another way: prepared with them.
    """

    folder: Path
    experiment: str
    shared: frozenset[str] = field(default=frozenset(), kw_only=True)

    @property
    def outputs(self) -> Path:
        return self.folder / "outputs"

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def data(self) -> Path:
        return self.prepared("")

    def prepared(self, data: str) -> Path:
        """A prepared data set; "" is the experiment's own, others are those it is judged on."""
        return self.outputs / ("data" if not data or data in self.shared else f"datasets/{data}")

    @property
    def targets(self) -> Path:
        return self.outputs / "targets"

    @property
    def report(self) -> Path:
        return self.outputs / "report"

    @property
    def speeds(self) -> Path:
        """What the report's page shows of this machine, and does without elsewhere: no stage's output."""
        return self.outputs / "speed.js"

    def download(self, name: str) -> Path:
        """A folder with one fetched file, or with what was unpacked from it."""
        return self.outputs / "downloads" / name

    def model(self, name: str) -> Path:
        """Weights of a model, one folder per seed."""
        return self.outputs / ("pretrained" if name in MODELS else "distilled") / name

    def weights(self, name: str, seed: int) -> Path:
        """Weights of one seed."""
        return self.model(name) / f"seed-{seed}"

    def attention(self, name: str) -> Path:
        return self.outputs / "attention" / name

    def exported(self, name: str) -> Path:
        """A model for other programs."""
        return self.outputs / "exported" / name

    def exhibits(self, label: str) -> Path:
        """What the report shows of a model beside its figures, on one data set."""
        return self.outputs / "exhibits" / label

    def result(self, kind: str, name: str) -> Path:
        """A small result file, kept by git."""
        return self.results / kind / name

    @property
    def searches(self) -> Path:
        """Study files; what was found lies below them, kept by git."""
        return self.folder / "search"

    def found(self, study: str) -> Path:
        """What a study found on this experiment."""
        return self.searches / "found" / f"{study}.json"

    def work(self, stage: str, digest: str) -> Path:
        """Where a run keeps its resume checkpoint.

        DVC deletes a stage's outputs before it runs it again, and experiments run in temporary copies: checkpoints
        live under the original folder, named by what they are of.
        """
        return state_folder(self.folder) / ".work" / stage / digest[:16]
