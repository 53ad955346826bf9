"""Where everything lies: inputs, outputs, results and resume checkpoints of one experiment."""

import os
from dataclasses import dataclass
from pathlib import Path

MODELS = ("teacher", "scratch")  # pre-trained by masked autoencoding; every other model is a distilled row


@dataclass(frozen=True)
class Layout:
    """The paths of one experiment.

    Attributes:
        root: the directory of params.yaml.
        experiment: name of the experiment; outputs/ and results/ have a folder of that name.
    """

    root: Path
    experiment: str

    @property
    def outputs(self) -> Path:
        return self.root / "outputs" / self.experiment

    @property
    def results(self) -> Path:
        return self.root / "results" / self.experiment

    @property
    def data(self) -> Path:
        return self.outputs / "data"

    @property
    def targets(self) -> Path:
        return self.outputs / "targets"

    @property
    def report(self) -> Path:
        return self.outputs / "report"

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

    def result(self, kind: str, name: str) -> Path:
        """A small result file, kept by git."""
        return self.results / kind / name

    @property
    def searches(self) -> Path:
        """Study files; what was found lies below them, kept by git."""
        return self.root / "experiments" / "search"

    def found(self, study: str) -> Path:
        """What a study found on this experiment."""
        return self.searches / "found" / self.experiment / f"{study}.json"

    def work(self, stage: str, digest: str) -> Path:
        """Where a run keeps its resume checkpoint.

        DVC deletes a stage's outputs before it runs it again, and experiments run in temporary copies: checkpoints
        live under the original repository, named by what they are of.
        """
        home = os.environ.get("DVC_ROOT") or os.environ.get("ATTNDISTILL_ROOT") or self.root
        return Path(home) / ".work" / stage / digest[:16]
