"""Registration: the models of an experiment in MLflow's registry, the best row of them under an alias."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from attndistill.core.places import project_folder
from attndistill.core.words import shown
from attndistill.data.store import open_split
from attndistill.data.views import evaluation_boxes
from attndistill.evaluations import Figure, evaluations
from attndistill.experiments import Experiment, open_experiment
from attndistill.handover.exporting import export
from attndistill.handover.models import open_finished
from attndistill.models.description import weights_digest
from attndistill.results import AttentionFile, ProbeFile
from attndistill.tracking.registry import Exported, ModelRegistry


@dataclass(frozen=True)
class Registered:
    """What lies in the registry.

    Attributes:
        experiment: the registered name.
        versions: by model.
        best, why: the row with the alias `best`, and its figure; empty where it is not among them.
    """

    experiment: str
    versions: Mapping[str, int]
    best: str
    why: str


def register(names: Sequence[str], folder: Path, *, by: str, licence: str, settings: Mapping[str, Any]) -> Registered:
    """Log models of an experiment as MLflow models and register them under the experiment's name.

    Args:
        names: models to register; empty: the teacher and every row that was distilled.
        folder: of the experiment.
        by: the figure by which a row is the best ("knn_top1"); empty: the first that rows were measured by.
        licence: of the weights, for the cards.
        settings: dotted keys that overlay the experiment's.

    Returns:
        The versions, and which row is the best.

    Raises:
        ValueError: no model of that name, no figure of that name, a name that is taken in the registry, or a tracking
            store that cannot be reached. Nothing is then registered.
    """
    experiment = open_experiment(folder)
    stored = [name for name in ("teacher", *experiment.rows) if experiment.layout.model(name).is_dir()]
    if unknown := [name for name in names if not experiment.layout.model(name).is_dir()]:
        raise ValueError(f"no stored model {shown(unknown[0])!r}; allowed: {', '.join(stored) or 'none yet'}")
    chosen = list(dict.fromkeys(names or stored))
    if not chosen:
        raise ValueError(f"{shown(experiment.folder)} has no stored model yet; run its pipeline first")
    figures = {name: _figures(experiment, name) for name in dict.fromkeys([*chosen, *experiment.rows])}
    best, why = _best([name for name in experiment.rows if name in stored], figures, by)
    registry = ModelRegistry(project_folder(experiment.folder))
    registry.check_name(experiment.name)
    with tempfile.TemporaryDirectory(prefix="attndistill-export-") as scratch:
        exported = [_exported(experiment, name, Path(scratch) / name, licence, settings, figures) for name in chosen]
        versions = registry.register(experiment.name, exported, best, why)
    return Registered(experiment.name, versions, best if best in versions else "", why)


def _exported(
    experiment: Experiment,
    name: str,
    to: Path,
    licence: str,
    settings: Mapping[str, Any],
    figures: Mapping[str, Mapping[str, float]],
) -> Exported:
    export(name, to, formats=["timm"], settings=settings, licence=licence, experiment=experiment.folder)
    finished = open_finished(name, experiment.folder, settings)
    assert finished.path is not None
    card = (to / "README.md").read_text(encoding="utf-8").split("---\n", 2)[2].strip()
    return Exported(
        name=name,
        folder=to,
        width=int(finished.backbone.embed_dim),
        picture=_picture(experiment),
        weights=weights_digest(finished.path),
        made=experiment.layout.model(name),
        figures=figures[name],
        card=card,
    )


def _picture(experiment: Experiment) -> bytes:
    """The first test image as a PNG file."""
    images = open_split(experiment.layout.data, "test")
    heights, widths = images.sizes(np.array([0]))
    side = int(min(heights[0], widths[0]))
    crop = images.crops(np.array([0]), evaluation_boxes(heights, widths, 1.0), side)[0]
    file = BytesIO()
    Image.fromarray((crop * 255).round().byte().permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()


def _figures(experiment: Experiment, name: str) -> dict[str, float]:
    """Every measured figure of a model on the experiment's own data, its mean over seeds."""
    probe = ProbeFile.read_if_any(experiment.layout.result("probes", f"{name}.json"))
    attention = AttentionFile.read_if_any(experiment.layout.result("attention", f"{name}.json"))
    found = {}
    for evaluation in evaluations().values():
        measured: Any = attention if evaluation.on == "maps" else probe.probes.get(evaluation.name) if probe else None
        for figure, value in (measured.figures if measured else {}).items():
            if figure in evaluation.figures:
                found[evaluation.key(figure)] = value.mean
    return found


def _best(rows: Sequence[str], figures: Mapping[str, Mapping[str, float]], by: str) -> tuple[str, str]:
    """The best row by a figure, and why in words; nothing where no row was measured and no figure was asked for."""
    facts: dict[str, tuple[str, Figure]] = {
        one.key(name): (one.title, figure) for one in evaluations().values() for name, figure in one.figures.items()
    }
    measured = [key for key in facts if any(key in figures[row] for row in rows)]
    if by and by not in measured:
        raise ValueError(f"no row was measured by {shown(by)!r}; allowed: {', '.join(measured) or 'nothing yet'}")
    if not measured:
        return "", "no row was measured"
    key = by or measured[0]
    title, figure = facts[key]
    held = {row: figures[row][key] for row in rows if key in figures[row]}
    best = (max if figure.direction == "maximize" else min)(held, key=lambda row: held[row])
    whole = title if figure.title == title else f"{title} {figure.title}"
    return best, f"{whole} {held[best]:.{figure.digits}f} {figure.unit}".rstrip() + f", of {len(held)} rows"
