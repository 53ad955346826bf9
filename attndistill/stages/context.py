"""What a stage is given: configuration, paths, the item it works on, and where it reports."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from attndistill.config import Config
from attndistill.config.rows import RowsFile
from attndistill.core.artifacts import digest_of
from attndistill.core.ranks import ranks_of_environment
from attndistill.core.reading import regular_file
from attndistill.data.manifest import read_manifest
from attndistill.stages.declaration import Item
from attndistill.stages.layout import Layout

if TYPE_CHECKING:
    import torch

    from attndistill.data.store import ImageSet
    from attndistill.data.views import ViewRecipe
    from attndistill.runs import Execution, Look
    from attndistill.training.checkpoint import Checkpoint

_MOST_STATE = 1 << 38  # bytes of a resume checkpoint


class Journal(Protocol):
    """Who records a run; losing it must never cost a training step."""

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """One point of named curves."""

    def figures(self, values: Mapping[str, Mapping[int, float]], *, item: str | None = None) -> None:
        """What was measured: figure -> seed -> value, of the run's own item or of another one."""

    def artifact(self, path: Path, *, folder: str) -> None:
        """A file or directory worth keeping with the run."""

    def dataset(self, *, name: str, digest: str, context: str, source: str, profile: Mapping[str, Any]) -> None:
        """Data the run used."""

    def tag(self, key: str, value: str) -> None:
        """A fact about the run."""


@dataclass(frozen=True)
class Context:
    """One stage on one item.

    Attributes:
        config: the resolved configuration, a row's changes included.
        layout: paths.
        stage: name of the stage.
        item: the model, row or download it works on, and the data set.
        rows: every distilled row in the table's order, and what the report prints of them.
        journal: where curves, pictures and figures are reported.
        is_main: whether this process writes; of a distributed run, only the first does.
        code: digest of the code it computes with (`stages.code`), taken when the stage began.
        look: how a search looks at students while they are distilled, and ends one by raising; it changes nothing in
            those that go on. None: as `distill.probe_every` says.
    """

    config: Config
    layout: Layout
    stage: str
    item: Item
    rows: RowsFile
    journal: Journal
    is_main: bool = True
    code: str = ""
    look: "Look | None" = None

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the item: the teacher is one model, everything else is repeated."""
        return (self.config.teacher_seed,) if self.item.name == "teacher" else self.config.seeds

    @property
    def teacher_weights(self) -> Path:
        """Where the pre-trained teacher is stored."""
        return self.layout.weights("teacher", self.config.teacher_seed)

    @cached_property
    def execution(self) -> "Execution":
        """How the work is done: the section `runtime` on this machine. Finished epochs go to the journal."""
        import torch

        from attndistill.runs import Execution

        runtime, device = self.config.runtime, self._device()
        self.journal.tag("device", torch.cuda.get_device_name(device) if device.type == "cuda" else device.type)
        self.journal.tag("threads", str(torch.get_num_threads()))
        # thread pools do not survive a fork, and a device is busy with one run
        alone = (
            device.type != "cpu" or torch.cuda.is_available() or ranks_of_environment()[1] > 1 or runtime.threads != 1
        )
        return Execution(
            device=device,
            processes=1 if alone else runtime.processes,
            workers=runtime.workers,
            micro_batch_size=runtime.micro_batch_size,
            evaluation_batch_size=runtime.evaluation_batch_size,
            checkpoint_seconds=runtime.checkpoint_seconds,
            is_main=self.is_main,
            label=f"{self.stage} {self.item.label}",
            at_epoch=lambda seed, epoch, values: self.journal.metrics(
                {f"seed-{seed}/{name}": value for name, value in values.items()}, step=epoch
            ),
        )

    def _device(self) -> "torch.device":
        """The device named by the configuration; "auto" takes CUDA or Apple's GPU when there is one."""
        import torch

        seen = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        allowed = [name for name, there in seen.items() if there]
        wanted = self.config.runtime.device
        if wanted not in ("auto", *allowed):
            raise ValueError(
                f"runtime.device is {wanted}, but torch sees no such device; allowed here: auto, {', '.join(allowed)}"
            )
        return torch.device(allowed[0] if wanted == "auto" else wanted)

    @property
    def views(self) -> "ViewRecipe":
        """The training views of the item's data set."""
        from attndistill.data.views import ViewRecipe

        return ViewRecipe.of(self.config.views_of(self.item.data))

    @property
    def targets_identity(self) -> dict[str, str]:
        """What the teacher's answers depend on: teacher, data and views."""
        from attndistill.data.views import ViewRecipe
        from attndistill.models.description import weights_digest

        return {
            "teacher": weights_digest(self.teacher_weights),
            "data": read_manifest(self.layout.data)["digest"],
            "views": digest_of(ViewRecipe.of(self.config.views).describe()),
        }

    def images(self, split: str) -> "ImageSet":
        """A split of the item's prepared data, recorded as an input."""
        from attndistill.data.store import open_split

        self.record_data(split, "training" if split == "train" else "evaluation")
        return open_split(self.layout.prepared(self.item.data), split)

    def record_data(self, split: str, purpose: str) -> None:
        """Record a split of the prepared data as a data set of the run, and the whole by its digests in tags."""
        directory = self.layout.prepared(self.item.data)
        manifest = read_manifest(directory)
        self.journal.dataset(
            name=manifest["dataset"],
            digest=manifest["digest"],
            context=purpose,
            source=os.path.relpath(directory, self.layout.folder),
            profile={"images": manifest["splits"][split]["count"]},
        )
        self.journal.tag("data_digest", manifest["digest"])
        self.journal.tag("class_list_sha256", manifest["class_list_sha256"])

    def checkpoint(self, seed: int, inputs: Mapping[str, str], *sections: str) -> "Checkpoint":
        """The resume checkpoint of one training run, named by all that decides its result, the code too."""
        from attndistill.training.checkpoint import Checkpoint

        run = digest_of(
            {
                "stage": self.stage,
                "item": self.item.label,
                "seed": seed,
                "configuration": self.config.digest(*sections),
                "inputs": dict(inputs),
            }
        )
        found = Checkpoint(self.work(f"{self.stage}-{self.item.label}", run), digest_of([run, self.code]))
        check_regular(found)
        return found

    def work(self, name: str, run: str) -> Path:
        """Where a run keeps what is unfinished: this code's apart from other code's, which is left and reported.

        Args:
            name: of the kind of run, for people.
            run: digest of what decides its result, the code left out.
        """
        directory = self.layout.work(name, run)
        own = directory.with_name(f"{directory.name}-{self.code[:8]}")
        if self.is_main and not own.exists() and any(directory.parent.glob(f"{directory.name}-*")):
            print(f"{name}: unfinished work of other code was found and left: starts anew")
        return own


def check_regular(checkpoint: "Checkpoint") -> None:
    """Raise ValueError for a pipe, a device or more than any state takes in the place of a resume checkpoint."""
    if os.path.lexists(checkpoint.path):
        try:
            regular_file(checkpoint.path, at_most=_MOST_STATE).close()
        except OSError as error:
            raise checkpoint.refused(f"cannot be read: {error.strerror}") from None
