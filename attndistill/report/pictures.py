"""The report's pictures: what was measured, handed to `attndistill.figures` as arrays."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from attndistill.core.words import shown
from attndistill.figures.attention import AttentionMaps, attention_panel
from attndistill.figures.charts import accuracy_bars, loss_curves, probe_curve
from attndistill.figures.export import safe_names
from attndistill.figures.settings import setting_curves
from attndistill.figures.sweeps import curves_by_panel
from attndistill.report.columns import Column
from attndistill.report.entries import TEACHER, Curve, Entry, aligned
from attndistill.results import StudentMaps, TeacherMaps

# K images, H heads, gh x gw patches

MOST_TOGETHER = 8  # models that one chart can show; beyond, each group has its own
_FEWEST_VALUES = 3  # of a setting, to draw a curve
_TERMS = ("loss", "alignment", "attention", "embedding", "reconstruction")  # never learning rates or timings
_CURVE = "logistic regression (C fixed), top-1 on test (%)"  # Fig. 7 has a linear probe; stages/pretrain.py has this


def charts(entries: Sequence[Entry], columns: Sequence[Column]) -> dict[str, bytes]:
    """File name -> PNG: accuracy.png, pretraining.png, training.png, as far as there is something to draw.

    More models than one chart can show: these have the pictured ones alone, and `group_charts` the rest.
    """
    teacher = next((entry.label for entry in entries if entry.name == TEACHER), None)
    chosen = [index for index, entry in enumerate(entries) if len(entries) <= MOST_TOGETHER or entry.pictured]
    drawn = _accuracy_chart("accuracy.png", entries, columns, chosen)
    pretraining = {entry.label: entry.accuracy for entry in entries if entry.accuracy is not None}
    if pretraining:
        drawn["pretraining.png"] = probe_curve(pretraining, ylabel=_CURVE, teacher=teacher)
    losses = {entries[index].label: terms for index in chosen if (terms := loss_terms(entries[index]))}
    if losses:
        units = {shown(entry.training.unit) for entry in entries if entry.training}
        drawn["training.png"] = loss_curves(losses, xlabel=" or ".join(sorted(units)))
    return drawn


def _accuracy_chart(
    name: str, entries: Sequence[Entry], columns: Sequence[Column], chosen: Sequence[int]
) -> dict[str, bytes]:
    teacher = next((entry.label for entry in entries if entry.name == TEACHER), None)
    accuracies = {}
    for column in columns:
        values = [np.array(cell.values if (cell := column.cells[index]) else ()) for index in chosen]
        if column.is_first and column.is_accuracy and any(map(len, values)):
            accuracies[f"{column.title}\n{column.protocol}"] = values
    if not accuracies:
        return {}
    return {name: accuracy_bars([entries[index].label for index in chosen], accuracies, teacher=teacher)}


def group_charts(entries: Sequence[Entry], columns: Sequence[Column]) -> dict[str, dict[str, bytes]]:
    """Group -> file name -> PNG, where one chart cannot show all models: bars beside the teacher's, and accuracy
    against a setting that the group's entries vary alone (lambda, T)."""
    if len(entries) <= MOST_TOGETHER:
        return {}
    drawn = {}
    for title, name in zip(groups := _groups(entries), safe_names(list(groups)), strict=True):
        teacher = [index for index, entry in enumerate(entries) if entry.name == TEACHER and index not in groups[title]]
        found = _accuracy_chart(f"{name}.png", entries, columns, [*teacher, *groups[title]])
        drawn[title] = found | _setting_chart(f"{name}-setting.png", entries, columns, groups[title])
    return drawn


def _groups(entries: Sequence[Entry]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for index, entry in enumerate(entries):
        if entry.group:
            groups.setdefault(entry.group, []).append(index)
    return {title: members for title, members in groups.items() if len(members) > 1}


def _setting_chart(
    name: str, entries: Sequence[Entry], columns: Sequence[Column], members: Sequence[int]
) -> dict[str, bytes]:
    """Curves where the members' settings differ in one number, or in a number and one thing more: a line for each.

    What follows from the number, as epochs from a share of the data, does not count.
    """
    settings = [entries[index].settings for index in members]
    keys = dict.fromkeys(key for found in settings for key in found)
    values = {key: [found.get(key) for found in settings] for key in keys}
    varied = sorted((key for key in values if _distinct(values[key]) > 1), key=lambda key: -_distinct(values[key]))
    if not varied or (count := _distinct(values[varied[0]])) < _FEWEST_VALUES:
        return {}
    along = varied[0]
    other = [key for key in varied[1:] if _distinct(list(zip(values[along], values[key], strict=True))) > count]
    if len(other) > 1:
        return {}
    if other and 2 * _distinct(values[other[0]]) > len(members):
        return {}  # a line is two points or more
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values[along]):
        return {}
    place = {index: float(entries[index].settings[along]) for index in members}
    order = sorted(members, key=lambda index: place[index])
    drawn = [column for column in columns if column.is_first and column.is_accuracy]
    if not other:
        measured = {
            column.title: [np.array(cell.values if (cell := column.cells[index]) else ()) for index in order]
            for column in drawn
        }
        paper = [entries[index].paper[0] for index in order]
        return {name: setting_curves(along, [place[index] for index in order], measured, paper)}
    panels: dict[str, dict[str, Curve]] = {}
    for column in drawn:
        lines: dict[str, dict[int, dict[float, float]]] = {}
        for index in order:
            if cell := column.cells[index]:
                seeds = lines.setdefault(f"{other[0]} {shown(entries[index].settings.get(other[0]))}", {})
                for seed, value in zip(cell.seeds, cell.values, strict=True):
                    seeds.setdefault(seed, {})[place[index]] = value
        curves = {label: curve for label, seeds in lines.items() if (curve := aligned(seeds))}
        if curves:
            panels[column.title] = curves
    return {name: curves_by_panel(panels, xlabel=along, logarithmic=True)} if panels else {}


def _distinct(values: Sequence[object]) -> int:
    return len(set(map(repr, values)))


def loss_terms(entry: Entry) -> dict[str, Curve]:
    """A model's loss and its terms, seeds on one axis."""
    if entry.training is None:
        return {}
    seeds = entry.training.curves
    found = {name for curves in seeds.values() for name in curves}
    shown = [name for name in _TERMS if name in found] + sorted(
        name for name in found - set(_TERMS) if name.endswith("_loss") or name.startswith("loss")
    )
    terms = {}
    for name in shown:
        curve = aligned({int(seed): dict(curves.get(name, ())) for seed, curves in seeds.items()})
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
class Looks:
    """Where the pictured models look: the teacher's file, and the students' by label."""

    teacher_label: str
    teacher: TeacherMaps
    students: Mapping[str, StudentMaps]


def read_looks(entries: Sequence[Entry]) -> Looks | None:
    """The maps of the pictured models; None without any.

    Raises:
        ValueError: a broken or missing file, or a student's of other images.
    """
    held = [(entry, entry.maps) for entry in entries if entry.maps is not None and entry.pictured]
    if not held:
        return None
    teacher = TeacherMaps.read(held[0][1].parents[1] / TEACHER / held[0][1].name)
    teacher_label = next((entry.label for entry in entries if entry.name == TEACHER), "Teacher")
    students = {}
    for entry, path in held:
        if entry.name != TEACHER:
            students[entry.label] = found = StudentMaps.read(path)
            if len(found.kl) != len(teacher.names):
                raise ValueError(
                    f"{path}: kl: {len(found.kl)} images for {entry.label}; allowed: the teacher's {len(teacher.names)}"
                )
    return Looks(teacher_label, teacher, students)


def comparison_panels(looks: Looks | None) -> list[Panel]:
    """One for every image that the teacher's file holds; models without maps have no line."""
    if looks is None:
        return []
    teacher = looks.teacher

    def draw(place: int) -> NDArray[np.uint8]:
        lines = [
            AttentionMaps(label, found.aggregated[place], found.heads[place], float(found.kl[place]))
            for label, found in looks.students.items()
        ]
        first = AttentionMaps(looks.teacher_label, teacher.aggregated[place], teacher.heads[place])
        caption = f"{shown(teacher.names[place])} · class {shown(teacher.classes[place])}"
        return attention_panel(teacher.images[place], first, lines, caption=caption)

    return [
        Panel(str(name), str(kind), bool(featured), partial(draw, place))
        for place, (name, kind, featured) in enumerate(
            zip(teacher.names, teacher.classes, teacher.featured, strict=True)
        )
    ]
