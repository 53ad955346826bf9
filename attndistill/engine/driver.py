"""The driver: a pipeline as a graph of tasks, judged by DVC, done by workers."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attndistill.config import Config
from attndistill.core.ownership import owned
from attndistill.core.places import state_folder
from attndistill.core.progress import say
from attndistill.core.ranks import ranks_of_environment
from attndistill.core.words import shown
from attndistill.drivers import dvc_name, in_working_copy, write_lock
from attndistill.engine.board import Board, Plan, whereabouts
from attndistill.engine.on import Executor, read_on
from attndistill.engine.work import Job
from attndistill.evaluations import evaluations
from attndistill.experiments import Experiment, open_experiment
from attndistill.pipeline import every_stage, recorded_pipeline, run_stage
from attndistill.stages import STAGES, Item, Stage
from attndistill.stages.finished import Finished, identity
from attndistill.tracking import Recorder
from attndistill.tracking.companion import Companion
from attndistill.tracking.recorder import DRIVER

if TYPE_CHECKING:
    from attndistill.engine.seeds import KeepingContext


def run_pipeline_on(experiment: Experiment, overrides: Mapping[str, Any], file: str) -> None:
    """Run what must run of a pipeline on the workers that `file` names; `dvc repro` then stores it in its lock.

    Raises:
        ValueError: a refused row or file, another driver, a task's own mistake: before anything is submitted, but for
            the last.
    """
    if ranks_of_environment()[1] > 1:
        raise ValueError("--on starts every process itself; allowed: without torchrun (gpus_per_training in its file)")
    for row in experiment.rows:
        experiment.config(row, overrides)
    on, config = read_on(file, state_folder(experiment.folder)), experiment.config("", overrides)
    board = Board(boards(experiment.folder) / "pipeline")
    with owned(board.folder, "driving this experiment"):
        graph = Graph(experiment, overrides)
        changed = graph.without_finished(graph.changed())
        jobs = graph.jobs(changed, on)
        board.begin(plan_of(f"pipeline of {experiment.name}", jobs, settled=len(graph.pieces) - len(changed)))
        if not jobs:
            say(f"{experiment.name}: everything is up to date")
            return
        with recorded_pipeline(experiment, config, overrides, enabled=config.runtime.tracking) as recorder:
            drive(jobs, on, board, recorder)


def drive(
    jobs: list[Job], on: Executor, board: Board, recorder: Recorder, look: Callable[[], None] = lambda: None
) -> None:
    """Run tasks, their recordings sent by this process's companion as children of `recorder`'s."""
    from attndistill.engine.pool import run_jobs

    def look_too() -> None:
        Companion.take_children(recorder.spool)
        look()

    below = {} if recorder.spool is None else {DRIVER: recorder.spool.folder.name}
    try:
        run_jobs(jobs, on, board, look_too, below)
    finally:
        Companion.take_children(recorder.spool)


def boards(folder: Path) -> Path:
    """Where the runs of an experiment tell what they do."""
    return state_folder(folder) / ".work" / "engine"


def plan_of(title: str, jobs: list[Job], settled: int = 0) -> Plan:
    """What `status` reads first."""
    return Plan(title=title, place=whereabouts(), settled=settled, needs={job.name: list(job.needs) for job in jobs})


def show_status(folder: Path) -> int:
    """What every run of an experiment is doing, for people; 1 where something has failed."""
    experiment = open_experiment(folder)
    found = [Board(path.parent) for path in sorted(boards(experiment.folder).glob("*/plan.json"))]
    if not found:
        say(f"{experiment.name}: nothing was run by `--on` here")
    lines = [line for board in found for line in board.lines(every=True)]
    for line in lines:
        say(line)
    return int(any(line.startswith("  failed") for line in lines))


class Graph:
    """A pipeline's pieces, each an item of a stage, and which of them have to run."""

    def __init__(self, experiment: Experiment, overrides: Mapping[str, Any]) -> None:
        self.experiment, self.overrides = experiment, overrides
        self.pieces = {_name(*piece): piece for piece in every_stage(experiment, overrides)}
        self.configs = {item.name: experiment.config(item.name, overrides) for _, item in self.pieces.values()}
        made = {name: stage.outputs(experiment.layout, item) for name, (stage, item) in self.pieces.items()}
        self.needs = {
            name: [other for other in made if other != name and _meet(made[other], self._read(stage, item))]
            for name, (stage, item) in self.pieces.items()
        }

    def _read(self, stage: Stage, item: Item) -> list[Path]:
        outside = stage.outside(self.configs[item.name], item)
        return [
            *stage.inputs(self.experiment.layout, item),
            *(self.experiment.folder / one.path for one in outside),
        ]

    def changed(self) -> dict[str, bool]:
        """Name of a piece that may have to run -> whether it must, whatever comes of what it waits for.

        DVC judges, where it is and speaks of these settings. A piece that it calls up to date is run only if what it
        reads comes out different.
        """
        folder = self.experiment.folder
        judged = any((place / ".dvc").is_dir() for place in (folder, *folder.parents))
        own = any(not key.startswith("runtime.") for key in self.overrides)
        if not judged or own or not (folder / "dvc.yaml").exists():
            return dict.fromkeys(self.pieces, True)
        if in_working_copy(self.experiment):
            write_lock(self.experiment)  # as DVC's first stage would
        stale, changed = _asked_dvc(folder), dict[str, bool]()
        for name, piece in self.pieces.items():
            if dvc_name(*piece) in stale:
                changed[name] = True
            elif any(need in changed for need in self.needs[name]):
                changed[name] = False
        return changed

    def without_finished(self, changed: Mapping[str, bool]) -> dict[str, bool]:
        """Without what an earlier driver's workers have finished: its outputs are put in their place."""
        left: dict[str, bool] = {}
        for name, must in changed.items():
            finished = _finished(self.experiment, *self.pieces[name], self.overrides)
            waits = any(need in left for need in self.needs[name])
            if waits or not finished.folder.exists() or not finished.take(finished.key(), last=False):
                left[name] = must
        return left

    def jobs(self, changed: Mapping[str, bool], on: Executor) -> list[Job]:
        """Tasks in the order of the pipeline: an item of a stage; before it, its seeds, where it trains several."""
        jobs: list[Job] = []
        for name, must in changed.items():
            stage, item = self.pieces[name]
            needs = tuple(need for need in self.needs[name] if need in changed)
            given = {
                "folder": str(self.experiment.folder),
                "stage": stage.name,
                "item": list(item),
                "overrides": {"runtime.processes": 1, **self.overrides},  # a worker is one process of many
                "before": {} if must else _identities(self.experiment, stage, item),
            }
            alone = {"scratch": on.scratch, "ranks": on.gpus_per_training}
            seeds = [
                Job(f"{name} seed {seed}", needs, f"{__name__}:do_seed", {**given, **alone, "seed": seed})
                for seed in _seeds(stage, item, self.configs[item.name], on.gpus_per_training)
            ]
            jobs += [*seeds, Job(name, (*needs, *(job.name for job in seeds)), f"{__name__}:do_item", given)]
        return jobs


def _meet(made: Sequence[Path], read: Sequence[Path]) -> bool:
    return any(one.is_relative_to(path) or path.is_relative_to(one) for one in made for path in read)


def _asked_dvc(folder: Path) -> set[str]:
    """Names of stages that DVC would run; outputs that only its cache has are put in their place first."""
    found = json.loads(_dvc(folder, "status", "--json", "dvc.yaml") or "{}")
    absent = [name for name, changes in found.items() if all(_only_deleted(change) for change in changes)]
    if absent:
        _dvc(folder, "checkout", "--quiet", "--allow-missing", *absent)
        found = json.loads(_dvc(folder, "status", "--json", "dvc.yaml") or "{}")
    return set(found)


def _only_deleted(change: Any) -> bool:
    outs = change.get("changed outs", {"": ""}) if isinstance(change, dict) else {"": ""}
    return set(outs.values()) == {"deleted"}


def _dvc(folder: Path, *words: str) -> str:
    """What a command of DVC prints. Raises ValueError where it fails: another one holds its lock."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ValueError(f"dvc {words[0]}: {shown(' '.join((done.stderr or done.stdout).split()), 400)}")
    return done.stdout.strip()


def _name(stage: Stage, item: Item) -> str:
    return f"{stage.name}@{item.label}" if item.label else stage.name


def _seeds(stage: Stage, item: Item, config: Config, ranks: int) -> tuple[int, ...]:
    """The seeds that are tasks of their own: of a stage that trains, if there are several, or several GPUs for one."""
    if item.name == "teacher":
        released = config.teacher.source is not None
        return (config.teacher_seed,) if stage.distributed and ranks > 1 and not released else ()
    trains = stage.distributed or (
        stage.judges and any(evaluations()[name].on == "model" for name in config.probe.chosen())
    )
    several = len(config.seeds) > 1 or (ranks > 1 and stage.distributed)
    return config.seeds if trains and several else ()


def _finished(experiment: Experiment, stage: Stage, item: Item, overrides: Mapping[str, Any]) -> Finished:
    return Finished(experiment.layout, stage, item, experiment.config(item.name, overrides), experiment.file)


@cache
def _opened(folder: str) -> Experiment:
    """Read once a worker: all its tasks are of the files that the driver has read."""
    return open_experiment(Path(folder))


def _identities(experiment: Experiment, stage: Stage, item: Item) -> dict[str, str | None]:
    return {str(path): identity(path) for path in stage.inputs(experiment.layout, item)}


def do_item(folder: str, stage: str, item: list[str], overrides: dict[str, Any], before: dict[str, Any]) -> str:
    """One item of a stage, in a worker; what was done of it before is not done again."""
    experiment, what, its = _opened(folder), STAGES[stage], Item(*item)
    if before and before == _identities(experiment, what, its):
        return "unchanged"
    finished = _finished(experiment, what, its, overrides)
    key = finished.key()
    if finished.take(key, last=False):
        return "kept"
    made: list[KeepingContext] = []

    def context_of(*given: Any) -> "KeepingContext":
        from attndistill.engine.seeds import KeepingContext

        made.append(KeepingContext(*given))
        return made[0]

    run_stage(experiment, what, its, overrides, None if what.light else context_of)  # a light one needs no torch
    finished.keep(key)
    for one in made:
        one.forget()
    return "done"


def do_seed(
    folder: str,
    stage: str,
    item: list[str],
    overrides: dict[str, Any],
    before: dict[str, Any],
    seed: int,
    scratch: str | None,
    ranks: int,
) -> str:
    """One seed of an item, in a worker."""
    from attndistill.engine.seeds import over_ranks, train_seed

    experiment, what, its = _opened(folder), STAGES[stage], Item(*item)
    if before and before == _identities(experiment, what, its):
        return "unchanged"
    finished = _finished(experiment, what, its, overrides)
    if finished.has(finished.key()):
        return "kept"
    if ranks > 1 and what.distributed:
        given = {"folder": folder, "stage": stage, "item": item, "overrides": overrides}
        over_ranks(ranks, {**given, "seed": seed, "scratch": scratch})
    else:
        train_seed(experiment, what, its, overrides, seed=seed, scratch=scratch)
    return "done"
