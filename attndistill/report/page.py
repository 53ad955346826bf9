"""The page: one file that holds everything it shows, readable from a file:// address with no network."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from attndistill.report.claims import Claim, lines_of, rules_of
from attndistill.report.columns import (
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
from attndistill.report.comparison import PROJECTOR_ALIGNMENT, RULE, Comparison
from attndistill.report.judgement import shown_p
from attndistill.report.provenance import unusual_feature, usual_feature
from attndistill.report.results import Row, data_of
from attndistill.report.search import NOTE


@dataclass(frozen=True)
class Pictures:
    """PNG files' bytes: charts by file name, panels by (image, class), the number of all panels, groups' charts."""

    charts: Mapping[str, bytes]
    panels: Mapping[tuple[str, str], bytes]
    panel_count: int
    groups: Mapping[str, Mapping[str, bytes]]


def render_page(
    rows: Sequence[Row],
    columns: Sequence[Column],
    comparisons: Sequence[Comparison],
    pictures: Pictures,
    *,
    title: str,
    description: Mapping[str, str],
    searches: Sequence[Mapping[str, Any]] = (),
    claims: Sequence[Claim] = (),
) -> str:
    """HTML with every picture inlined; every label is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html.j2").render(
        title=title,
        description=dict(description),
        groups=_column_groups(columns),
        columns=columns,
        lines=_lines(rows, columns),
        usual_feature=usual_feature(rows, columns),
        headlines=[entry.sentence for entry in comparisons if entry.right == PROJECTOR_ALIGNMENT],
        comparisons={} if claims else _comparisons(comparisons),
        claims=[{"title": claim.title, "lines": lines_of(claim), "figures": list(claim.outcomes)} for claim in claims],
        rules=rules_of(claims),
        difference_rule=RULE,
        papers=_papers(rows, columns),
        papers_probe=nearest.group.lower() if (nearest := nearest_to_paper(columns)) else "",
        group_charts={title: list(map(_data_uri, charts.values())) for title, charts in pictures.groups.items()},
        charts=_inlined(pictures.charts),
        panels=[
            {"name": name, "kind": kind, "picture": _data_uri(picture)}
            for (name, kind), picture in pictures.panels.items()
        ],
        panel_count=pictures.panel_count,
        data=data_of(rows),
        chosen=_chosen(rows, columns),
        search_note=NOTE,
        searches=[{**search, "charts": _inlined(search["charts"])} for search in searches],
    )


def _inlined(charts: Mapping[str, bytes]) -> dict[str, str]:
    return {Path(name).stem: _data_uri(picture) for name, picture in charts.items()}


def _data_uri(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode('ascii')}"


def _column_groups(columns: Sequence[Column]) -> list[dict[str, Any]]:
    groups = []
    for title, members in groupby(columns, key=lambda column: column.group):
        held = list(members)
        groups.append({"title": title, "width": len(held), "feature": held[0].feature})
    return groups


def _lines(rows: Sequence[Row], columns: Sequence[Column]) -> list[dict[str, Any]]:
    teacher, usual = teacher_place(rows), usual_feature(rows, columns)
    lines = []
    for index, row in enumerate(rows):
        known = row.probe is not None and row.probe.parameters is not None
        lines.append(
            {
                "label": row.label,
                "group": row.group if not index or row.group != rows[index - 1].group else "",
                "parameters": f"{row.probe.parameters:,}" if row.probe and known else "",
                "feature": unusual_feature(row, usual),
                "cells": [
                    {"text": shown(column.cells[index], column.digits), "best": column.best(teacher) == index}
                    for column in columns
                ],
                "seeds": seeds_of(columns, index),
            }
        )
    return lines


def _comparisons(comparisons: Sequence[Comparison]) -> dict[str, list[dict[str, Any]]]:
    pairs: dict[str, list[dict[str, Any]]] = {}
    for entry in comparisons:
        pairs.setdefault(entry.pair, []).append(_comparison(entry))
    return pairs


def _comparison(entry: Comparison) -> dict[str, Any]:
    return {
        "figure": entry.column.title,
        "difference": entry.difference,
        "unit": entry.unit,
        "n": entry.n,
        "p": shown_p(entry.p),
        "verdict": entry.verdict,
    }


def _papers(rows: Sequence[Row], columns: Sequence[Column]) -> list[list[str]]:
    """The paper's top-1 and top-5 of each row, its gap to the teacher, and ours by the probe nearest to the paper's."""
    if not has_paper(rows):
        return []
    lines = []
    for row, theirs, ours in zip(rows, paper_gaps(rows), our_gaps(rows, nearest_to_paper(columns)), strict=True):
        top1, top5 = ("" if figure is None else f"{figure:.1f}" for figure in row.paper)
        lines.append([top1, top5, signed(theirs), signed(ours)])
    return lines


def _chosen(rows: Sequence[Row], columns: Sequence[Column]) -> list[dict[str, str]]:
    """What the probes' sweeps chose for each seed."""
    probes = dict.fromkeys((column.probe, column.group) for column in columns if column.is_accuracy)
    chosen = []
    for name, title in probes:
        for row in rows:
            probe = row.probe.probes.get(name) if row.probe else None
            for key, values in (probe.selected if probe else {}).items():
                listed = ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
                chosen.append({"probe": title, "label": row.label, "key": key, "values": listed})
    return chosen
