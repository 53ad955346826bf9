"""What the dashboard shows for a trial: its figures, its attention panels and its curves, as Optuna artifacts."""

from collections.abc import Mapping
from pathlib import Path

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
    with replacing(layout.result("curves", "trial.png")) as beside:
        beside.write_bytes(trial_curves({seed: _points(terms) for seed, terms in curves.items()}))
    panels = sorted((layout.attention("") / "panels").glob("*.png"))
    store = FileSystemArtifactStore(artifacts)
    lines = [f"**Trial {trial.number}**, on the validation part of train", ""]
    lines += ["| figure | value |", "| --- | --- |"]
    lines += [f"| {name} | {value:.6g} |" for name, value in figures.items()]
    for title, path in [
        ("Curves", layout.result("curves", "trial.png")),
        *((f"Attention, {p.stem}", p) for p in panels),
    ]:
        artifact = upload_artifact(artifact_store=store, file_path=str(path), study_or_trial=trial)
        lines += ["", f"{title}", "", f"![{title}]({get_artifact_path(trial, artifact)})"]
    save_note(trial, "\n".join(lines))


def _points(terms: Mapping[str, list[list[float]]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {
        name: (np.array([epoch for epoch, _ in points]), np.array([value for _, value in points]))
        for name, points in terms.items()
    }
