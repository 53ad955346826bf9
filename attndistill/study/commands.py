"""The commands: run studies, name the winner and make it the pipeline's result."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attndistill.experiments import BASE, Experiment
from attndistill.pipeline import make_deterministic
from attndistill.study.definition import Value
from attndistill.study.plan import Plan, read_plan
from attndistill.tracking import Recorder

_DVC_EXPERIMENT = "digits"  # whose stages are in the dvc.yaml at the top


def run_studies(
    files: Sequence[str],
    experiment: Experiment,
    overrides: Mapping[str, Any],
    *,
    storage: str | None,
    artifacts: str | None,
    workers: int,
) -> None:
    """Run every study file to its number of trials, one after another; all are checked before the first begins.

    Raises:
        ValueError: a mistake in a file, missing inputs, a storage that does not answer.
    """
    if workers < 1:
        raise ValueError(f"-j {workers}; allowed: 1 or more")
    plans = [read_plan(Path(file), experiment, overrides) for file in files]
    from attndistill.study.storage import Place

    place = Place.of(experiment.root, storage, artifacts)
    for plan in plans:
        _run(plan, place, workers)


def _run(plan: Plan, place: Any, workers: int) -> None:
    from attndistill.stages.layout import Layout
    from attndistill.study.outcome import write_outcome
    from attndistill.study.storage import without_passwords
    from attndistill.study.trial import Search, inputs_of
    from attndistill.study.worker import load_study, prepare_study, work_side_by_side

    config, experiment = plan.config({}), plan.experiment
    make_deterministic(config)
    search = Search.of(plan, place)
    with Recorder.open(
        root=experiment.root,
        command="study",
        name=search.name,
        experiment=experiment.name,
        config={**config.plain(), "study": plan.definition.plain()},
        argv=without_passwords(sys.argv),
        inputs=inputs_of(Layout(experiment.root, experiment.name)),
        enabled=config.runtime.tracking,
    ) as recorder:
        prepare_study(search)
        limit = plan.definition.timeout
        started = time.monotonic()
        try:
            work_side_by_side(search, workers, None if limit is None else started + limit)
        finally:
            study = load_study(search)
            path = write_outcome(search, study)
        if path is not None:
            recorder.artifact(path, folder="study")
            recorder.artifact(Layout(experiment.root, experiment.name).outputs / "study" / plan.name, folder="study")
            print(
                f"study {search.name}: {time.monotonic() - started:.0f} s; {path.relative_to(experiment.root)} written"
            )


def show_best(
    file: str,
    experiment: Experiment,
    overrides: Mapping[str, Any],
    *,
    storage: str | None,
    number: int | None,
    apply: bool,
) -> int:
    """Print the winner (or the front of two objectives) and the command that makes it the pipeline's result.

    Args:
        number: a trial other than the winner; needed with `apply` where there are several winners.
        apply: run that command; gives its exit code.

    Raises:
        ValueError: no such study or trial, or a winner that no command can make the pipeline's result.
    """
    plan = read_plan(Path(file), experiment, overrides)
    from attndistill.study.outcome import best_trials
    from attndistill.study.storage import Place
    from attndistill.study.trial import Search
    from attndistill.study.worker import load_study

    search = Search.of(plan, Place.of(experiment.root, storage, None))
    study = load_study(search)
    best = best_trials(study)
    if number is not None:
        best = [trial for trial in study.get_trials(deepcopy=False) if trial.number == number and trial.values]
    if not best:
        what = "no finished trial" if number is None else f"no finished trial {number}"
        raise ValueError(f"study {search.name} has {what}")
    for trial in best:
        values = zip(plan.definition.objectives, trial.values, strict=True)
        print(f"trial {trial.number}: {', '.join(f'{name} {value:.6g}' for name, value in values)}")
        for key, value in trial.params.items():
            print(f"  {key}: {value}")
        print(f"  {shlex.join(adopting(plan, trial.params))}")
    if not apply:
        return 0
    if len(best) > 1:
        numbers = ", ".join(str(trial.number) for trial in best)
        raise ValueError(f"{len(best)} trials are on the front; choose with --trial: {numbers}")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # this Python's dvc
    command = adopting(plan, best[0].params)
    return subprocess.run(command, cwd=experiment.root, env={**os.environ, "PATH": path}, check=False).returncode


def adopting(plan: Plan, point: Mapping[str, Value]) -> list[str]:
    """The command that makes settings the pipeline's: `dvc exp run -S ...` for the embedded default.

    Another experiment is not in the dvc.yaml at the top: its whole pipeline is run with the settings on the command
    line.

    Raises:
        ValueError: a setting that the experiment's own files hold, where params.yaml would not reach it.
    """
    experiment = plan.experiment
    settings = {key: value for key, value in plan.overrides.items() if not key.startswith("runtime.")} | dict(point)
    folder = f"experiments/{experiment.name}"
    if experiment.name != _DVC_EXPERIMENT:
        words = [word for key, value in settings.items() for word in (f"--{key}", _text(value))]
        return ["python", "-m", "attndistill", "pipeline", "--experiment", folder, *words]
    for key in settings:
        if key in experiment.rows[plan.definition.row].set:
            raise ValueError(f"{key} is set by row {plan.definition.row} in {folder}/rows.yaml: change it there")
    words = [word for key, value in settings.items() for word in ("-S", f"{BASE}:{key}={_text(value)}")]
    return ["dvc", "exp", "run", *words]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)
