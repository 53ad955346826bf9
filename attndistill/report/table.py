"""The table: one line a model, one column a figure, each column of one protocol; as CSV, JSON and a printed sheet."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from attndistill.report.columns import (
    METRICS,
    Column,
    has_paper,
    nearest_to_paper,
    our_gaps,
    paper_gaps,
    seeds_of,
    shown,
    signed,
    teacher_place,
)
from attndistill.report.provenance import made_by, measured_on, unusual_feature, usual_feature
from attndistill.report.results import Row, data_of
from attndistill.report.sheet import Cell, Heading, Sheet, as_csv


def as_dict(rows: Sequence[Row], columns: Sequence[Column]) -> dict[str, Any]:
    """Model -> probe -> metric -> mean, sd, n, protocol; what nobody measured is absent."""
    table: dict[str, Any] = {}
    for index, row in enumerate(rows):
        entry: dict[str, Any] = {}
        if row.probe and row.probe.parameters is not None:
            entry["parameters"] = row.probe.parameters
        for column in columns:
            cell = column.cells[index]
            if cell:
                figures = {"mean": cell.mean, "n": cell.n, "protocol": cell.protocol}
                entry.setdefault(column.probe, {})[column.metric] = figures | (
                    {} if cell.sd is None else {"sd": cell.sd}
                )
        table[row.name] = entry
    return table


def table_csv(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """One line a model at full precision: mean, sd, n, protocol and gap to the teacher of every figure, and digests."""
    fields = [
        f"{column.probe}_{column.metric}_{part}"
        for column in columns
        for part in ("mean", "sd", "n", "protocol", "gap")
    ]
    paper = ["paper_top1", "paper_top5", "paper_top1_gap"]
    table: list[list[Any]] = [["model", "group", "label", "parameters", "feature", *paper, *fields, *data_of(rows)]]
    papers, ours = paper_gaps(rows), [our_gaps(rows, column) for column in columns]
    for index, row in enumerate(rows):
        line: list[Any] = [row.name, row.group, row.label]
        line += [row.probe.parameters, row.probe.feature] if row.probe else [None, None]
        line += [*row.paper, papers[index]]
        for column, gap in zip(columns, ours, strict=True):
            cell = column.cells[index]
            line += [cell.mean, cell.sd, cell.n, cell.protocol, gap[index]] if cell else [None] * 5
        table.append([*line, *(data_of(rows).values() if row.probe else [None, None])])
    return as_csv(table)


def table_sheet(rows: Sequence[Row], columns: Sequence[Column]) -> Sheet:
    """The table as it is printed: the paper's figures beside ours, and both gaps to the teacher."""
    papers, nearest = has_paper(rows), nearest_to_paper(columns)
    gapped = {"paper": paper_gaps(rows)} if papers else {}
    if nearest and teacher_place(rows) is not None:
        gapped[f"ours, {nearest.group.lower()}"] = our_gaps(rows, nearest)
    usual, teacher = usual_feature(rows, columns), teacher_place(rows)
    headings = [
        Heading("Method", left=True),
        Heading("Parameters"),
        *(Heading(f"{name} (%)", "Paper") for name in METRICS.values() if papers),
        *(Heading(column.heading, column.group) for column in columns),
        *(Heading(name, "Top-1 gap to the teacher (points)") for name in gapped),
        Heading("Seeds"),
    ]

    def line(index: int) -> list[Cell]:
        row = rows[index]
        return [
            Cell(row.label, small=unusual_feature(row, usual)),
            Cell(f"{row.probe.parameters:,}" if row.probe and row.probe.parameters else ""),
            *(Cell("" if figure is None else f"{figure:.1f}") for figure in row.paper if papers),
            *(
                Cell(shown(column.cells[index], column.digits), bold=index == column.best(teacher))
                for column in columns
            ),
            *(Cell(signed(found[index])) for found in gapped.values()),
            Cell(seeds_of(columns, index)),
        ]

    grouped = groupby(range(len(rows)), key=lambda index: rows[index].group)
    return Sheet(
        headings, [(title, [line(index) for index in members]) for title, members in grouped], _notes(rows, columns)
    )


def _notes(rows: Sequence[Row], columns: Sequence[Column]) -> list[str]:
    """How the figures were made."""
    usual = usual_feature(rows, columns)
    told = ["Figures are means ± sample standard deviation over seeds; bold: the best mean apart from the teacher's."]
    told += made_by(columns)
    told += [f"Where a line names no feature, it is {usual}."] if usual else []
    told += [
        "The paper's figures: its linear probe, on its own data. Empty: not legible, or not measured."
    ] * has_paper(rows)
    return told + measured_on(rows)
