"""What a study leaves to look at: runs in MLflow, and the notes of trials in the dashboard.

In MLflow a study is one run for all its calls, on any machine, with the trials below it. The first call's run is the
parent; its id is kept in the study. A later call, or another machine's, is a child of it, and its trials are children
of that. Calls that begin before MLflow has answered the first are known by the tag `study.name`, which every run of the
study has. A trial's note shows its figures, its attention panels and its curves, as Optuna artifacts.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna_dashboard import save_note
from optuna_dashboard.artifact import get_artifact_path

from attndistill.core.artifacts import read_json, replacing
from attndistill.core.secrets import hidden, hidden_in
from attndistill.figures.search import trial_curves
from attndistill.study.search import Search
from attndistill.study.validation import TrialLayout
from attndistill.tracking import Recorder
from attndistill.tracking.address import tracking_uri

_PARENT = "mlflow_parent"  # attribute of a study: where its first call is recorded
_LAUNCHER = "MLFLOW_RUN_ID"  # set by `mlflow run`, read by the recorder


@contextmanager
def recorded(search: Search, study: optuna.Study) -> Iterator[Recorder]:
    """Record a call for the length of a `with` block; a later call is a child of the first."""
    config = search.config({})
    with ExitStack() as stack:
        with _below(study.user_attrs.get(_PARENT)):
            recorder = stack.enter_context(
                Recorder.open(
                    root=search.experiment.project,
                    command="study",
                    name=search.stored_name,
                    experiment=search.experiment.name,
                    config={**config.plain(), "study": search.definition.plain()},
                    argv=hidden_in(sys.argv),
                    inputs=search.inputs,
                    enabled=config.runtime.tracking,
                )
            )
        recorder.tag("study.name", search.stored_name)
        yield recorder


@contextmanager
def _below(parent: dict[str, str] | None) -> Iterator[None]:
    """Meanwhile a recording becomes a child of that run, unless `mlflow run` has one for it already."""
    if parent is None or _LAUNCHER in os.environ or parent["uri"] != hidden(tracking_uri()):
        yield
        return
    os.environ[_LAUNCHER] = parent["run"]
    try:
        yield
    finally:
        del os.environ[_LAUNCHER]


def publish(recorder: Recorder, study: optuna.Study) -> None:
    """Keep the id of the first call's run in the study, once MLflow has given it one.

    A run that `mlflow run` opened is ended by it, and takes no second recording while it runs: it is not kept.
    """
    if recorder.spool is None or _LAUNCHER in os.environ or _PARENT in study.user_attrs:
        return
    progress: dict[str, Any] = read_json(recorder.spool.progress) if recorder.spool.progress.exists() else {}
    if progress.get("run_id"):
        study.set_user_attr(_PARENT, {"run": progress["run_id"], "uri": hidden(progress["uri"])})


def tag_inputs(recorder: Recorder, lineage: Path | None) -> None:
    """Give a trial's run the md5 of its inputs, which the study's own run has read once for all of them."""
    path = None if lineage is None else lineage / "inputs.json"
    if path is None or not path.exists():
        return
    for name, entry in read_json(path)["inputs"].items():
        recorder.tag(f"lineage.input.{name}", entry["workspace"])


def write_note(artifacts: Path, trial: optuna.Trial, layout: TrialLayout, figures: Mapping[str, float]) -> None:
    """Store the pictures of a finished, still running trial in the folder `artifacts`, and write its note."""
    drawn = _draw(layout, {seed: _points(terms) for seed, terms in layout.curves.items()})
    panels = sorted((layout.attention("") / "panels").glob("[!.]*.png"))
    lines = [f"**Trial {trial.number}**, on the validation part of train", "", "| figure | value |", "| --- | --- |"]
    lines += [f"| {name} | {value:.6g} |" for name, value in figures.items()]
    _save(artifacts, trial, lines, {"Curves": drawn} | {f"Attention, {path.stem}": path for path in panels})


def write_pruned_note(artifacts: Path, trial: optuna.Trial, layout: TrialLayout, curve: str, reason: str) -> None:
    """The note of a trial that was pruned: why, and the figures it was pruned by. It has no student to look at."""
    seen = trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values
    points = {curve: [[float(step), value] for step, value in sorted(seen.items())]}
    drawn = _draw(layout, {"": _points(points)})
    lines = [f"**Trial {trial.number}**, pruned {reason}"]
    _save(artifacts, trial, lines, {"Curve over the epochs of its seeds, one after another": drawn})


def write_failed_note(trial: optuna.Trial, reason: str) -> None:
    """The note of a trial that its own settings have ended."""
    save_note(trial, f"**Trial {trial.number}** failed: {reason}")


def _draw(layout: TrialLayout, seeds: Mapping[str, Mapping[str, Any]]) -> Path:
    path = layout.result("curves", "trial.png")
    with replacing(path) as beside:
        beside.write_bytes(trial_curves(seeds))
    return path


def _save(artifacts: Path, trial: optuna.Trial, lines: list[str], pictures: Mapping[str, Path]) -> None:
    store = FileSystemArtifactStore(artifacts)
    for title, path in pictures.items():
        artifact = upload_artifact(artifact_store=store, file_path=str(path), study_or_trial=trial)
        lines += ["", title, "", f"![{title}]({get_artifact_path(trial, artifact)})"]
    save_note(trial, "\n".join(lines))


def _points(terms: Mapping[str, list[list[float]]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {
        name: (np.array([epoch for epoch, _ in points]), np.array([value for _, value in points]))
        for name, points in terms.items()
    }
