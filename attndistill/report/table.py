"""The table: one line a model, one column a figure, each column of one protocol; and what a terminal says of it."""

import re
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

from attndistill.core.words import shown
from attndistill.report.columns import (
    Column,
    gaps,
    made_by,
    nearest_to_paper,
    place_of,
    usual_feature,
)
from attndistill.report.differences import measured_on
from attndistill.report.entries import Entry, data_of
from attndistill.report.made import anchor
from attndistill.report.sheet import Cell, Heading, Sheet, as_text
from attndistill.results import ModelSummary, Summary

_RATE = re.compile(r"\brate ([0-9.e+-]+)")
_NAMED = 3  # models that a note names; of more it gives the number


def models_table(entries: Sequence[Entry], columns: Sequence[Column]) -> dict[str, ModelSummary]:
    """Model -> evaluation -> figure -> mean, sd, n, protocol; what nobody measured is absent."""
    table = {}
    for place, entry in enumerate(entries):
        found: dict[str, dict[str, Summary]] = {}
        for column in columns:
            if cell := column.cells[place]:
                spread = {} if cell.sd is None else {"sd": cell.sd}
                summary = Summary(mean=cell.mean, n=cell.n, protocol=cell.protocol, **spread)
                found.setdefault(column.evaluation.name, {})[column.metric] = summary
        size = {"parameters": entry.probe.parameters} if entry.probe else {}
        table[entry.name] = ModelSummary.model_validate(size | found)
    return table


def table_sheet(entries: Sequence[Entry], columns: Sequence[Column], data: str = "") -> Sheet:
    """The paper's figures beside ours, and both gaps to the teacher, where the paper prints any.

    On the page each figure leads to how it was made, on the further data set `data` or the experiment's own.
    """
    with_paper = any(figure is not None for entry in entries for figure in entry.paper)
    nearest, usual, teacher = nearest_to_paper(columns), usual_feature(entries, columns), place_of(entries)
    our_gaps = {column.key: gaps(entries, column.means) for column in columns}
    paper_gaps = gaps(entries, [entry.paper[0] for entry in entries])
    best = {column.key: column.best(teacher) for column in columns}

    def line(place: int) -> list[Cell]:
        entry, probe = entries[place], entries[place].probe
        unusual = entry.feature if usual and entry.feature != usual else ""
        size = (probe.parameters, entry.feature) if probe else ()
        cells = [Cell(entry.label, small=unusual, values=(entry.name, entry.group, entry.label))]
        cells.append(Cell(f"{probe.parameters:,}" if probe else "", values=size))
        for column in columns:
            cell, gap = column.cells[place], our_gaps[column.key][place]
            values = (cell.mean, cell.sd, cell.n, cell.protocol, gap) if cell else ()
            to = anchor(entry.name, column, data) if cell else ""
            cells.append(Cell(column.text(place), bold=best[column.key] == place, values=values, to=to))
        if with_paper:
            cells += [Cell("" if figure is None else f"{figure:.1f}", values=(figure,)) for figure in entry.paper]
            cells.append(Cell(_signed(paper_gaps[place]), values=(paper_gaps[place],)))
            cells += [Cell(_signed(our_gaps[nearest.key][place]))] if nearest else []
        counts = sorted({cell.n for column in columns if (cell := column.cells[place])})
        return [*cells, Cell(", ".join(map(str, counts)))]

    headings = [Heading("Method", left=True, fields=("model", "group", "label"))]
    headings.append(Heading("Parameters", fields=("parameters", "feature"), brief=False))
    for column in columns:
        parts = tuple(f"{column.key}_{part}" for part in ("mean", "sd", "n", "protocol", "gap"))
        over = column.evaluation.title
        headings.append(Heading(column.heading, over, False, column.protocol, column.feature, parts, column.is_first))
    if with_paper:
        paper = ("Paper", False, "", "linear probe, its own data")
        headings += [Heading(f"top-{k} (%)", *paper, (f"paper_top{k}",), brief=False) for k in (1, 5)]
        above = "Top-1 gap to the teacher (points)"
        headings.append(Heading("paper", above, fields=("paper_top1_gap",), brief=False))
        headings += [Heading(f"ours, {nearest.evaluation.title.lower()}", above, brief=False)] if nearest else []
    headings.append(Heading("Seeds"))
    grouped = groupby(range(len(entries)), key=lambda place: entries[place].group)
    groups = [(title, [line(place) for place in members]) for title, members in grouped]
    notes = [
        "Figures are means ± sample standard deviation over seeds; bold: the best mean apart from the teacher's, "
        "whether or not the difference holds. Empty: not measured.",
        *made_by(columns),
        *([f"Where a line names no feature, it is {usual}."] if usual else []),
        *[
            "The paper's figures are of other data, so the last columns compare gaps to the teacher; figures that its "
            "scan does not show are empty."
        ]
        * with_paper,
        *sweep_ends(entries, columns),
        *measured_on(entries),
    ]
    return Sheet(headings, groups, notes, data_of(entries))


def _signed(points: float | None) -> str:
    return "" if points is None else f"{points:+.1f}".replace("-", "−")


def chosen_sheet(entries: Sequence[Entry], columns: Sequence[Column]) -> Sheet:
    """What the sweeps of the evaluations chose for each seed."""
    headings = [Heading(name, left=True) for name in ("Chosen by a sweep", "Method", "", "For each seed")]
    lines = []
    for evaluation in {column.evaluation.name: column.evaluation for column in columns}.values():
        for entry in entries:
            found = entry.probe.probes.get(evaluation.name) if entry.probe else None
            for key, values in (found.selected if found else {}).items():
                told = (evaluation.title, entry.label, shown(key), ", ".join(f"{value:g}" for value in values))
                lines.append([Cell(text) for text in told])
    return Sheet(headings, [("", lines)] if lines else [])


def sweep_ends(entries: Sequence[Entry], columns: Sequence[Column]) -> list[str]:
    """A note for each end of a sweep that was chosen: what is better may lie beyond."""
    ends: dict[tuple[str, str, float, str], list[str]] = {}
    for column in (column for column in columns if column.is_first):
        for entry in entries:
            found = entry.probe.probes.get(column.evaluation.name) if entry.probe else None
            for key, values in (found.selected if found else {}).items():
                swept = sorted({n for text in found.sweep if (n := _number(text, key)) is not None}) if found else []
                for end, other in ((swept[0], swept[-1]), (swept[-1], swept[0])) if len(swept) > 1 else ():
                    if count := sum(f"{value:g}" == f"{end:g}" for value in values):
                        side = "smallest" if end < other else "largest"
                        told = (column.evaluation.title, shown(key), end, f"the {side} of {len(swept)} tried")
                        ends.setdefault(told, []).append(f"{entry.label} ({count} of {len(values)} seeds)")
    return [
        f"{title}: {key} = {end:g}, {side}, was chosen for "
        f"{', '.join(who) if len(who) <= _NAMED else f'{len(who)} models'}"
        f"{'' if key == 'k' and end == 1 else ': a better one may lie beyond'}."
        for (title, key, end, side), who in ends.items()
    ]


def _number(text: str, key: str) -> float | None:
    """Of what was swept: the text itself, or what follows 'rate' in it."""
    named = _RATE.search(text) if key == "rate" else None
    try:
        return float(named[1] if named else text)
    except ValueError:
        return None


def closing_words(
    entries: Sequence[Entry], columns: Sequence[Column], page: Path, model_folder: Callable[[str], Path]
) -> str:
    """What the terminal shows at the end: the table, where the report lies, the best student's folder, warnings."""
    words = [as_text(table_sheet(entries, columns)).rstrip("\n"), "", f"report: {_near(page)}"]
    judged = nearest_to_paper(columns) or next(iter(columns), None)
    if judged and (best := _best_student(entries, judged)) is not None:
        told = f"{entries[best].label}, {judged.title} {judged.text(best)} {judged.figure.unit}".rstrip()
        words.append(f"best student: {_near(model_folder(entries[best].name))} ({told})")
    return "\n".join([*words, *(f"note: {note}" for note in sweep_ends(entries, columns)), ""])


def _best_student(entries: Sequence[Entry], column: Column) -> int | None:
    """Of the distilled ones the best; a single one is the best."""
    others = [place for place, entry in enumerate(entries) if not entry.is_distilled]
    measured = [place for place, cell in enumerate(column.cells) if cell and place not in others]
    return measured[0] if len(measured) == 1 else column.best(*others)


def _near(path: Path) -> str:
    """As one would type it here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
