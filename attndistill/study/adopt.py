"""The winner of a study, and the command that makes it the pipeline's result."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attndistill.config import flat, read_yaml
from attndistill.core.secrets import hidden
from attndistill.core.words import shown
from attndistill.dvc_pipeline import DEFAULT
from attndistill.experiments import BASE, Experiment
from attndistill.study.definition import Value
from attndistill.study.outcome import Trial, best_trials, outcome_of, read_outcome
from attndistill.study.search import Search, read_search
from attndistill.study.storage import STORAGE


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
    search = read_search(Path(file), experiment, overrides, storage)
    complete, best = _from_storage(search) or _from_file(search, storage)
    chosen = [trial for trial in complete if trial.number == number or (number is None and trial.number in best)]
    if not chosen:
        what = "no finished trial" if number is None else f"no finished trial {number}"
        raise ValueError(f"study {search.name} on {experiment.name} has {what}")
    for trial in chosen:
        search.config(trial.settings)  # a file may say anything
        values = zip(search.definition.objectives, trial.values or (), strict=True)
        print(f"trial {trial.number}: {', '.join(f'{name} {value:.6g}' for name, value in values)}")
        for key, value in trial.settings.items():
            print(f"  {shown(key)}: {shown(value)}")
        print(f"  {shown(shlex.join(adopting(search, trial.settings)), 4000)}")
    if not apply:
        return 0
    if len(chosen) > 1:
        numbers = ", ".join(str(trial.number) for trial in chosen)
        raise ValueError(f"{len(chosen)} trials are on the front; choose with --trial: {numbers}")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # this Python's dvc
    command = adopting(search, chosen[0].settings)
    return subprocess.run(command, cwd=experiment.root, env={**os.environ, "PATH": path}, check=False).returncode


def _from_storage(search: Search) -> tuple[list[Trial], list[int]] | None:
    """Complete trials and the numbers of the best; None where the storage does not hold the study. Makes nothing."""
    if search.missing is not None or not search.place.exists():
        return None
    from attndistill.study.studies import load_study

    try:
        study = load_study(search)
    except KeyError:
        return None
    return outcome_of(search, study).complete, [trial.number for trial in best_trials(study)]


def _from_file(search: Search, storage: str | None) -> tuple[list[Trial], list[int]]:
    """The same from the file that git keeps, which is said; a file of another configuration is warned of."""
    path = search.layout.found(search.name)
    name = path.relative_to(search.layout.root)
    where = shown(hidden(storage or os.environ.get(STORAGE) or "the default storage"))
    if not path.exists():
        raise ValueError(
            f"no study of this file and configuration in {where}, and no {name}: run "
            "`attndistill study` with this file, settings and storage first"
        )
    found = read_outcome(path)
    for field in ("objectives", "search"):
        there, here = list(getattr(found, field)), list(getattr(search.definition, field))
        if sorted(there) != sorted(here):
            raise ValueError(
                f"{name}: {field}: {shown(', '.join(there))}; allowed: {', '.join(here)}, as the study file"
            )
    print(f"no study of this file and configuration in {where}: from {name}")
    if found.configuration != search.configuration:
        print(
            f"attndistill: note: {name} was found with another configuration or study file "
            f"({shown(found.configuration)}, today {search.configuration})",
            file=sys.stderr,
        )
    return found.complete, found.best


def adopting(search: Search, point: Mapping[str, Value]) -> list[str]:
    """The command that makes settings the pipeline's: `dvc exp run -S ...`.

    An experiment without a dvc.yaml is run whole, with the settings on the command line.

    Raises:
        ValueError: a setting that would not reach the run from the file it would be written to.
    """
    experiment = search.experiment
    settings = search.departures | dict(point)
    folder = f"experiments/{experiment.name}"
    if experiment.name != DEFAULT and not (experiment.root / folder / "dvc.yaml").exists():
        words = [word for key, value in settings.items() for word in (f"--{key}", _text(value))]
        return ["python", "-m", "attndistill", "pipeline", "--experiment", folder, *words]
    for key in settings:
        if key in experiment.rows[search.definition.row].set:
            raise ValueError(f"{key} is set by row {search.definition.row} in {folder}/rows.yaml: change it there")
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
