"""What the dashboard shows for a trial: its figures, its attention panels and its curves, as Optuna artifacts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna_dashboard import save_note
from optuna_dashboard.artifact import get_artifact_path

from attndistill.core.artifacts import read_json, replacing
from attndistill.figures.search import trial_curves
from attndistill.stages.layout import Layout


def write_note(artifacts: Path, trial: optuna.Trial, layout: Layout, figures: Mapping[str, float]) -> None:
    """Store the pictures of a finished trial and write its note.

    Args:
        artifacts: folder of the artifact store, made when needed.
        trial: still running.
        layout: of the trial; training curves and attention panels exist.
        figures: name -> value.
    """
    curves = read_json(layout.result("training", "trial.json"))["curves"]
    drawn = _draw(layout, {seed: _points(terms) for seed, terms in curves.items()})
    panels = sorted((layout.attention("") / "panels").glob("*.png"))
    lines = [f"**Trial {trial.number}**, on the validation part of train", "", "| figure | value |", "| --- | --- |"]
    lines += [f"| {name} | {value:.6g} |" for name, value in figures.items()]
    _save(artifacts, trial, lines, {"Curves": drawn} | {f"Attention, {path.stem}": path for path in panels})


def write_pruned_note(artifacts: Path, trial: optuna.Trial, layout: Layout, curve: str, reason: str) -> None:
    """The note of a trial that was given up: why, and the figures it was given up by. It has no student to look at.

    Args:
        artifacts: folder of the artifact store.
        trial: still running.
        layout: of the trial.
        curve: name of the figure.
        reason: of the pruner.
    """
    seen = trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values
    points = {curve: [[float(step), value] for step, value in sorted(seen.items())]}
    drawn = _draw(layout, {"": _points(points)})
    lines = [f"**Trial {trial.number}**, pruned {reason}"]
    _save(artifacts, trial, lines, {"Curve over the epochs of its seeds, one after another": drawn})


def write_failed_note(trial: optuna.Trial, reason: str) -> None:
    """The note of a trial that its own settings have ended."""
    save_note(trial, f"**Trial {trial.number}** failed: {reason}")


def _draw(layout: Layout, seeds: Mapping[str, Mapping[str, Any]]) -> Path:
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
