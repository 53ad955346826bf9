"""The winner of a study, and the command that makes it the pipeline's result."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attndistill.config import flat, read_yaml
from attndistill.dvc_pipeline import DEFAULT
from attndistill.experiments import BASE, Experiment
from attndistill.report.search import Found
from attndistill.stages.layout import Layout
from attndistill.study.address import STORAGE, without_passwords
from attndistill.study.definition import Value
from attndistill.study.plan import Plan, read_plan


@dataclass(frozen=True)
class Finished:
    """A finished trial, from a storage or from the file that git keeps."""

    number: int
    values: list[float]
    settings: dict[str, Any]


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
        file: the study file.
        experiment: that it was run on.
        overrides: as the study was run with.
        storage: as the study was run with; where it does not hold the study, the file that git keeps is read.
        number: a trial other than the winner; needed with `apply` where there are several winners.
        apply: run that command; gives its exit code.

    Raises:
        ValueError: no such study or trial, or a winner that no command can make the pipeline's result.
    """
    plan = read_plan(Path(file), experiment, overrides)
    finished, best = _from_storage(plan, storage) or _from_file(plan, storage)
    chosen = [trial for trial in finished if trial.number == number or (number is None and trial.number in best)]
    if not chosen:
        what = "no finished trial" if number is None else f"no finished trial {number}"
        raise ValueError(f"study {plan.name} on {experiment.name} has {what}")
    for trial in chosen:
        values = zip(plan.definition.objectives, trial.values, strict=True)
        print(f"trial {trial.number}: {', '.join(f'{name} {value:.6g}' for name, value in values)}")
        for key, value in trial.settings.items():
            print(f"  {key}: {value}")
        print(f"  {shlex.join(adopting(plan, trial.settings))}")
    if not apply:
        return 0
    if len(chosen) > 1:
        numbers = ", ".join(str(trial.number) for trial in chosen)
        raise ValueError(f"{len(chosen)} trials are on the front; choose with --trial: {numbers}")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # this Python's dvc
    command = adopting(plan, chosen[0].settings)
    return subprocess.run(command, cwd=experiment.root, env={**os.environ, "PATH": path}, check=False).returncode


def _from_storage(plan: Plan, storage: str | None) -> tuple[list[Finished], list[int]] | None:
    """Finished trials and the numbers of the best; None where the storage does not hold the study. Makes nothing."""
    from attndistill.study.storage import Place

    place = Place.of(plan.experiment.root, storage, None)
    if not place.exists():
        return None
    from attndistill.study.outcome import best_trials
    from attndistill.study.search import Search, missing_inputs
    from attndistill.study.worker import find_study

    if missing_inputs(Layout(plan.experiment.root, plan.experiment.name)) is not None:
        return None
    study = find_study(Search.of(plan, place))
    if study is None:
        return None
    finished = [
        Finished(trial.number, list(trial.values), trial.params)
        for trial in study.get_trials(deepcopy=False)
        if trial.values and trial.state.is_finished()
    ]
    return finished, [trial.number for trial in best_trials(study)]


def _from_file(plan: Plan, storage: str | None) -> tuple[list[Finished], list[int]]:
    """The same from the file that git keeps, which is said; a file of another configuration is warned of."""
    root = plan.experiment.root
    path = Layout(root, plan.experiment.name).found(plan.name)
    where = without_passwords([storage or os.environ.get(STORAGE) or "the default storage"])[0]
    if not path.exists():
        raise ValueError(
            f"no study of this file and configuration in {where}, and no {path.relative_to(root)}: run "
            "`attndistill study` with this file, settings and storage first"
        )
    found = Found.read(path)
    print(f"no study of this file and configuration in {where}: from {path.relative_to(root)}")
    if found.plain["configuration"] != plan.configuration:
        print(
            f"attndistill: note: {path.relative_to(root)} was found with another configuration or study file "
            f"({found.plain['configuration']}, today {plan.configuration})",
            file=sys.stderr,
        )
    finished = [Finished(trial["number"], trial["values"], trial["settings"]) for trial in found.complete]
    return finished, found.plain["best"]


def adopting(plan: Plan, point: Mapping[str, Value]) -> list[str]:
    """The command that makes settings the pipeline's: `dvc exp run -S ...`.

    An experiment without a dvc.yaml is run whole, with the settings on the command line.

    Raises:
        ValueError: a setting that would not reach the run from the file it would be written to.
    """
    experiment = plan.experiment
    settings = plan.departures | dict(point)
    folder = f"experiments/{experiment.name}"
    if experiment.name != DEFAULT and not (experiment.root / folder / "dvc.yaml").exists():
        words = [word for key, value in settings.items() for word in (f"--{key}", _text(value))]
        return ["python", "-m", "attndistill", "pipeline", "--experiment", folder, *words]
    for key in settings:
        if key in experiment.rows[plan.definition.row].set:
            raise ValueError(f"{key} is set by row {plan.definition.row} in {folder}/rows.yaml: change it there")
    if experiment.name == DEFAULT:
        targets, places = [], {key: f"{BASE}:{key}" for key in settings}
    else:
        targets, places = [f"{folder}/dvc.yaml"], {key: _overlaid(experiment, key) for key in settings}
    words = [word for key, value in settings.items() for word in ("-S", f"{places[key]}={_text(value)}")]
    return ["dvc", "exp", "run", *targets, *words]


def _overlaid(experiment: Experiment, key: str) -> str:
    """A key of the experiment's own params.yaml; Hydra wants a plus before one that is not there yet."""
    path = f"experiments/{experiment.name}/{BASE}"
    overlay = read_yaml(experiment.root / path) if (experiment.root / path).exists() else {}
    if key.partition(".")[0] not in overlay:
        raise ValueError(
            f"{key}: {path} has no section {key.partition('.')[0]}, so no stage watches it: add it there, "
            f"then run `attndistill dvc-file --experiment experiments/{experiment.name}`"
        )
    return f"{path}:{'' if key in flat(overlay) else '+'}{key}"


def _text(value: Any) -> str:
    """As Hydra and the command line read it: null, true and numbers as in YAML, text as it is."""
    return value if isinstance(value, str) else json.dumps(value)
