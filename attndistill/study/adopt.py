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
from attndistill.experiments import ROWS, SETTINGS, Experiment
from attndistill.outcomes import Trial, Value, read_outcome
from attndistill.study.outcome import best_trials, outcome_of
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
        where = "" if experiment.folder == Path.cwd() else f"cd {shlex.quote(str(experiment.folder))} && "
        print(f"  {shown(where + shlex.join(adopting(search, trial.settings)), 4000)}")
    if not apply:
        return 0
    if len(chosen) > 1:
        numbers = ", ".join(str(trial.number) for trial in chosen)
        raise ValueError(f"{len(chosen)} trials are on the front; choose with --trial: {numbers}")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # this Python's dvc
    command = adopting(search, chosen[0].settings)
    return subprocess.run(command, cwd=experiment.folder, env={**os.environ, "PATH": path}, check=False).returncode


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
    name = path.relative_to(search.layout.folder)
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
    """The command that makes settings the pipeline's, in the experiment's folder: `dvc exp run -S ...`.

    An experiment without a dvc.yaml is run whole, with the settings on the command line.

    Raises:
        ValueError: a setting that would not reach the run from the file it would be written to.
    """
    experiment = search.experiment
    settings = search.departures | dict(point)
    if not (experiment.folder / "dvc.yaml").exists():
        words = [word for key, value in settings.items() for word in (f"--{key}", _text(value))]
        return ["python", "-m", "attndistill", "pipeline", *words]
    for key in settings:
        if key in experiment.rows[search.definition.row].set:
            raise ValueError(f"{key} is set by row {search.definition.row} in {ROWS}: change it there")
    places = {key: f"{SETTINGS}:{_plus(experiment, key)}{key}" for key in settings}
    return [
        "dvc",
        "exp",
        "run",
        *(w for key, value in settings.items() for w in ("-S", f"{places[key]}={_text(value)}")),
    ]


def _plus(experiment: Experiment, key: str) -> str:
    """Hydra wants a plus before a key that the experiment's own params.yaml does not have yet."""
    own = read_yaml(experiment.folder / SETTINGS) if os.path.lexists(experiment.folder / SETTINGS) else {}
    if key.partition(".")[0] not in own:
        raise ValueError(
            f"{key}: {SETTINGS} of {experiment.name} has no section {key.partition('.')[0]}, so no stage watches it: "
            "add it there, then run `attndistill drivers`"
        )
    return "" if key in flat(own) else "+"


def _text(value: Any) -> str:
    """As Hydra and the command line read it: null, true and numbers as in YAML, text as it is."""
    return value if isinstance(value, str) else json.dumps(value)
