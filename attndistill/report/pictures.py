"""The report's pictures: what was measured, handed to `attndistill.figures` as arrays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attndistill.figures.attention import AttentionMaps, attention_panel
from attndistill.figures.charts import accuracy_bars, loss_curves, probe_curve
from attndistill.figures.export import safe_names
from attndistill.figures.settings import setting_curves
from attndistill.report.columns import Column
from attndistill.report.results import TEACHER, Curve, Row, aligned

# K images, H heads, gh x gw patches

MOST_TOGETHER = 8  # models that one chart can show; beyond, each group has its own
_FEWEST_VALUES = 3  # of a setting, to draw a curve
_TERMS = ("loss", "alignment", "attention", "embedding", "reconstruction")  # never learning rates or timings
_CURVE = "logistic regression (C fixed), top-1 on test (%)"  # Fig. 7 has a linear probe; stages/pretrain.py has this
_AGREES = 1e-4  # the teacher's maps of one image, read by two stage runs


def charts(rows: Sequence[Row], columns: Sequence[Column]) -> dict[str, bytes]:
    """File name -> PNG: accuracy.png, pretraining.png, training.png, as far as there is something to draw.

    More models than one chart can show: these have the pictured ones alone, and `group_charts` the rest.
    """
    teacher = next((row.label for row in rows if row.name == TEACHER), None)
    chosen = [index for index, row in enumerate(rows) if len(rows) <= MOST_TOGETHER or row.pictured]
    drawn = _accuracy_chart("accuracy.png", rows, columns, chosen)
    pretraining = {row.label: row.pretraining for row in rows if row.pretraining is not None}
    if pretraining:
        drawn["pretraining.png"] = probe_curve(pretraining, ylabel=_CURVE, teacher=teacher)
    losses = {rows[index].label: terms for index in chosen if (terms := _terms(rows[index]))}
    if losses:
        units = {row.training.unit for row in rows if row.training}
        drawn["training.png"] = loss_curves(losses, xlabel=" or ".join(sorted(units)))
    return drawn


def _accuracy_chart(
    name: str, rows: Sequence[Row], columns: Sequence[Column], chosen: Sequence[int]
) -> dict[str, bytes]:
    teacher = next((row.label for row in rows if row.name == TEACHER), None)
    accuracies = {}
    for column in columns:
        values = [np.array(cell.values if (cell := column.cells[index]) else ()) for index in chosen]
        if column.metric == "top1" and any(map(len, values)):
            accuracies[f"{column.title}\n{column.protocol}"] = values
    if not accuracies:
        return {}
    return {name: accuracy_bars([rows[index].label for index in chosen], accuracies, teacher=teacher)}


def group_charts(rows: Sequence[Row], columns: Sequence[Column]) -> dict[str, dict[str, bytes]]:
    """Group -> file name -> PNG, where one chart cannot show all models: bars beside the teacher's, and accuracy
    against a setting that the group's rows vary alone (lambda, T)."""
    if len(rows) <= MOST_TOGETHER:
        return {}
    drawn = {}
    for title, name in zip(groups := _groups(rows), safe_names(list(groups)), strict=True):
        teacher = [index for index, row in enumerate(rows) if row.name == TEACHER and index not in groups[title]]
        found = _accuracy_chart(f"{name}.png", rows, columns, [*teacher, *groups[title]])
        drawn[title] = found | _setting_chart(f"{name}-setting.png", rows, columns, groups[title])
    return drawn


def _groups(rows: Sequence[Row]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        if row.group:
            groups.setdefault(row.group, []).append(index)
    return {title: members for title, members in groups.items() if len(members) > 1}


def _setting_chart(
    name: str, rows: Sequence[Row], columns: Sequence[Column], members: Sequence[int]
) -> dict[str, bytes]:
    """A curve where the members' settings differ in one number and in nothing else."""
    settings = [rows[index].settings for index in members]
    keys = set().union(*settings)
    varied = [key for key in keys if len({repr(found.get(key)) for found in settings}) > 1]
    if len(members) < _FEWEST_VALUES or len(varied) != 1:
        return {}
    values = [found.get(varied[0]) for found in settings]
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return {}
    order = sorted(members, key=lambda index: float(rows[index].settings[varied[0]]))
    measured = {
        column.title: [np.array(cell.values if (cell := column.cells[index]) else ()) for index in order]
        for column in columns
        if column.metric == "top1"
    }
    ordered = [float(rows[index].settings[varied[0]]) for index in order]
    return {name: setting_curves(varied[0], ordered, measured, [rows[index].paper[0] for index in order])}


def _terms(row: Row) -> dict[str, Curve]:
    """A model's loss and its terms, seeds on one axis."""
    if row.training is None:
        return {}
    seeds = row.training.curves
    found = {name for curves in seeds.values() for name in curves}
    shown = [name for name in _TERMS if name in found] + sorted(
        name for name in found - set(_TERMS) if name.endswith("_loss") or name.startswith("loss")
    )
    terms = {}
    for name in shown:
        curve = aligned({int(seed): dict(curves.get(name, [])) for seed, curves in seeds.items()})
        if curve is not None:
            terms[name] = curve
    return terms


@dataclass(frozen=True)
class Panel:
    """One image and where every pictured model looks in it (Figs. 9-11).

    Attributes:
        name: of the image.
        kind: its class.
        featured: whether the page is to show it; the others are for the folders of attn_vis.
        draw: the picture, (height, width, 3) uint8.
    """

    name: str
    kind: str
    featured: bool
    draw: Callable[[], NDArray[np.uint8]]


@dataclass(frozen=True)
class _Maps:
    """One model's maps.npz."""

    row: Row
    arrays: dict[str, NDArray[np.generic]]
    places: dict[str, int]

    def maps(self, who: str, label: str, name: str) -> AttentionMaps | None:
        """Of the 'teacher' or the 'student' for one image; None where the file has none."""
        place = self.places.get(name)
        if place is None or f"{who}_aggregated" not in self.arrays:
            return None
        kl = float(self.arrays["kl"][place]) if who == "student" and "kl" in self.arrays else None
        return AttentionMaps(
            name=label,
            aggregated=np.asarray(self.arrays[f"{who}_aggregated"][place], np.float32),
            heads=np.asarray(self.arrays[f"{who}_heads"][place], np.float32),
            kl=kl,
        )


def comparison_panels(rows: Sequence[Row]) -> list[Panel]:
    """One for every image that some pictured model has maps of; models without them have no line.

    Raises:
        ValueError: a file that lacks an array, or two files that disagree about the teacher's maps.
    """
    files = [_read_maps(row, row.maps) for row in rows if row.maps is not None and row.pictured]
    teacher_label = next((row.label for row in rows if row.name == TEACHER), "Teacher")
    return [
        _panel(name, [file for file in files if name in file.places], teacher_label)
        for name in dict.fromkeys(name for file in files for name in file.places)
    ]


def _panel(name: str, holders: Sequence[_Maps], teacher_label: str) -> Panel:
    first, place = holders[0], holders[0].places[name]
    for other in holders[1:]:
        _agree(first, other, name)
    kind = str(first.arrays["classes"][place])

    def draw() -> NDArray[np.uint8]:
        teacher = first.maps("teacher", teacher_label, name)
        assert teacher is not None  # _read_maps saw it
        students = [maps for file in holders if (maps := file.maps("student", file.row.label, name))]
        image = np.asarray(first.arrays["images"][place], np.uint8)
        return attention_panel(image, teacher, students, caption=f"{name} · class {kind}")

    return Panel(name, kind, bool(first.arrays["featured"][place]), draw)


def _read_maps(row: Row, path: Path) -> _Maps:
    """A model's maps, with the pictures and the teacher's maps that the teacher's own file holds for all."""
    shared = _arrays_of(path.parents[1] / TEACHER / path.name)
    arrays = {f"teacher_{name}" if name in ("aggregated", "heads") else name: found for name, found in shared.items()}
    if row.name != TEACHER:
        own = _arrays_of(path)
        arrays |= {"student_aggregated": own["aggregated"], "student_heads": own["heads"], "kl": own["kl"]}
    return _Maps(row, arrays, {str(name): place for place, name in enumerate(arrays["names"])})


def _arrays_of(path: Path) -> dict[str, NDArray[np.generic]]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is not an archive of plain arrays: {error}") from None


def _agree(one: _Maps, other: _Maps, name: str) -> None:
    ours, theirs = (file.arrays["teacher_heads"][file.places[name]] for file in (one, other))
    if ours.shape != theirs.shape or not np.allclose(ours, theirs, atol=_AGREES):
        raise ValueError(
            f"{one.row.maps} and {other.row.maps} hold different teacher maps of {name}: one report allows one teacher"
        )
