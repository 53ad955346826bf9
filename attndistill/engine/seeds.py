"""One seed of a stage that trains: its checkpoint is brought to the end and left there; the stage itself stores it.

A checkpoint is named by its own seed and not by the others, so the stage finds it finished, whoever finished it.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import chdir
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from attndistill.core.artifacts import digest_of
from attndistill.core.ownership import locked
from attndistill.core.progress import progress, watched
from attndistill.core.ranks import ranks_of_environment
from attndistill.core.side_by_side import die_with_parent
from attndistill.core.words import shown
from attndistill.experiments import Experiment, open_experiment
from attndistill.pipeline import check_item, make_deterministic
from attndistill.runs import Execution
from attndistill.stages import STAGES, Item, Stage
from attndistill.stages.code import code_digest
from attndistill.stages.context import Context, Journal
from attndistill.stages.finished import copy_tree, identity
from attndistill.stages.layout import Layout
from attndistill.tracking import Recorder
from attndistill.training.checkpoint import Checkpoint

_STEPS = "steps done: "  # how the first of several ranks tells them


@dataclass(frozen=True)
class SeedLayout(Layout):
    """Data and targets may lie on the machine's own disk; results of one seed alone are nobody's.

    Attributes:
        scratch: the folder for copies; None reads the shared ones.
    """

    scratch: Path | None = None

    @property
    def results(self) -> Path:
        return Path(os.devnull) / "nowhere"

    @property
    def targets(self) -> Path:
        return self._near(super().targets)

    def prepared(self, data: str) -> Path:
        """As everywhere, or its copy."""
        return self._near(super().prepared(data))

    def _near(self, shared: Path) -> Path:
        return shared if self.scratch is None else copied(shared, self.scratch)


def copied(shared: Path, scratch: Path) -> Path:
    """A folder's copy on this machine's own disk, made by the first who asks; older ones of it go."""
    name = digest_of(str(shared))[:12]
    copy = scratch / "attndistill" / f"{name}-{digest_of(identity(shared))[:12]}"
    copy.parent.mkdir(parents=True, exist_ok=True)
    with locked(copy.parent / f"{name}.lock", timeout=24 * 3600.0):
        if not copy.exists():
            copy_tree(shared, copy, others=copy.parent.glob(f"{name}-*"))
    return copy


class KeptCheckpoint(Checkpoint):
    """The stage removes it, once it has stored all seeds."""

    def remove(self) -> None:
        """Nothing."""


class _Curves:
    """A journal of curves: what one seed alone has measured is no figure."""

    def __init__(self, recorder: Recorder) -> None:
        self.metrics, self.tag, self.dataset = recorder.metrics, recorder.tag, recorder.dataset

    def figures(self, values: Mapping[str, Mapping[int, float]], *, item: str | None = None) -> None:
        """Nothing."""

    def artifact(self, path: Path, *, folder: str) -> None:
        """Nothing."""


@dataclass(frozen=True)
class KeepingContext(Context):
    """A stage's context whose checkpoints stay until `forget`: what is stored is not safe before it is recorded."""

    _kept: list[Path] = field(default_factory=list)

    def checkpoint(self, seed: int, inputs: Mapping[str, str], *sections: str) -> Checkpoint:
        """As the stage's, but kept."""
        found = super().checkpoint(seed, inputs, *sections)
        self._kept.append(found.directory)
        return KeptCheckpoint(found.directory, found.digest)

    def forget(self) -> None:
        """Remove the checkpoints."""
        for directory in self._kept:
            shutil.rmtree(directory, ignore_errors=True)


@dataclass(frozen=True)
class SeedContext(KeepingContext):
    """A stage's context that has one seed. It is not the one that stores; it does train, lock and checkpoint."""

    seed: int = 0

    @property
    def seeds(self) -> tuple[int, ...]:
        return (self.seed,)

    @cached_property
    def execution(self) -> Execution:
        return replace(super().execution, is_main=ranks_of_environment()[0] == 0)


def train_seed(
    experiment: Experiment,
    stage: Stage,
    item: Item,
    overrides: Mapping[str, Any],
    *,
    seed: int,
    scratch: str | None,
) -> None:
    """Train one seed of an item to its end, from its checkpoint when there is one.

    Raises:
        ValueError: a refused configuration; a variable in `scratch` that this machine does not set.
    """
    config, first = check_item(experiment, stage, item, overrides), ranks_of_environment()[0] == 0
    own, near = experiment.layout, None if scratch is None else _on_this_machine(scratch)
    layout = SeedLayout(own.folder, own.experiment, scratch=near, shared=own.shared)
    with (
        chdir(experiment.folder),
        Recorder.open(
            root=experiment.project,
            command="seed",
            name=f"{stage.name} seed {seed}@{item.label}",
            experiment=experiment.name,
            config=config.plain(),
            changes=experiment.changes(item.name, overrides),
            argv=sys.argv,
            seeds=[seed],
            inputs=stage.inputs(experiment.layout, item),
            enabled=first and config.runtime.tracking,
        ) as recorder,
    ):
        make_deterministic(config)
        code, journal = code_digest(stage.module), cast(Journal, _Curves(recorder))
        stage.run(SeedContext(config, layout, stage.name, item, experiment.file, journal, False, code, seed=seed))


def _on_this_machine(scratch: str) -> Path:
    path = Path(os.path.expandvars(scratch))
    if "$" in str(path) or not path.is_absolute():
        raise ValueError(
            f"scratch: {shown(scratch)} is {shown(path)} on {socket.gethostname()}; allowed: a folder there"
        )
    return path


def over_ranks(count: int, arguments: Mapping[str, Any]) -> None:
    """The same by several processes of this machine, which share each batch (torchrun).

    Raises:
        ValueError: it ended with an error; its last words.
    """
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m", __name__]
    command, parent, label = [sys.executable, *words, json.dumps(arguments)], os.getpid(), "training"
    with (
        tempfile.TemporaryFile("w+") as said,
        progress(label, 0, "steps") as update,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=said, text=True, preexec_fn=lambda: die_with_parent(parent)
        ) as ranks,
    ):
        for line in ranks.stdout or ():
            if line.startswith(_STEPS):
                update(int(line.removeprefix(_STEPS)))
        ranks.wait()
        said.seek(0)
        last = [line for line in said if line.strip()]
    if ranks.returncode > 0:
        own = [line for line in last if line.startswith("attndistill:")]
        raise ValueError((own or last or ["no word"])[-1].strip().removeprefix("attndistill: "))
    if ranks.returncode:
        raise ChildProcessError(f"torchrun was ended by signal {-ranks.returncode}")


def main(text: str) -> int:
    """One rank of `over_ranks`."""
    given = json.loads(text)
    try:
        with watched(lambda unit, done, total: print(f"{_STEPS}{done}", flush=True)):
            train_seed(
                open_experiment(Path(given["folder"])),
                STAGES[given["stage"]],
                Item(*given["item"]),
                given["overrides"],
                seed=given["seed"],
                scratch=given["scratch"],
            )
    except (ValueError, FloatingPointError) as error:
        print(f"attndistill: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
