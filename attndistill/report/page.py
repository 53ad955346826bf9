"""The page: one file that holds everything it shows, readable from a file:// address with no network."""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from attndistill.report.claims import Claim, Judged
from attndistill.report.comparison import PROJECTOR_ALIGNMENT, TEACHER, Comparison, shown_p
from attndistill.report.results import Row
from attndistill.report.table import NEAREST, Column, gap, seeds_of, shown, signed


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
        usual_feature=_usual_feature(rows) if _features_differ(columns) else "",
        headlines=[entry.sentence for entry in comparisons if entry.right == PROJECTOR_ALIGNMENT],
        comparisons={} if claims else _comparisons(comparisons),
        claims=[_claim(claim) for claim in claims],
        papers=_papers(rows, columns),
        papers_probe=nearest.group.lower() if (nearest := nearest_to_paper(columns)) else "",
        group_charts={title: list(map(_data_uri, charts.values())) for title, charts in pictures.groups.items()},
        charts=_inlined(pictures.charts),
        panels=[
            {"name": name, "kind": kind, "picture": _data_uri(picture)}
            for (name, kind), picture in pictures.panels.items()
        ],
        panel_count=pictures.panel_count,
        probe=next((row.probe for row in rows if row.probe), None),
        chosen=_chosen(rows, columns),
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
    teacher = next((index for index, row in enumerate(rows) if row.name == TEACHER), None)
    usual = _usual_feature(rows) if _features_differ(columns) else None
    lines = []
    for index, row in enumerate(rows):
        known = row.probe is not None and row.probe.parameters is not None
        lines.append(
            {
                "label": row.label,
                "group": row.group if not index or row.group != rows[index - 1].group else "",
                "parameters": f"{row.probe.parameters:,}" if row.probe and known else "",
                "feature": row.probe.feature if row.probe and usual not in (None, row.probe.feature) else "",
                "cells": [
                    {"text": shown(column.cells[index], column.digits), "best": column.best(teacher) == index}
                    for column in columns
                ],
                "seeds": seeds_of(columns, index),
            }
        )
    return lines


def _features_differ(columns: Sequence[Column]) -> bool:
    return any(column.is_accuracy and not column.feature for column in columns)


def _usual_feature(rows: Sequence[Row]) -> str:
    """What most models were judged by."""
    return Counter(row.probe.feature for row in rows if row.probe).most_common(1)[0][0]


def _comparisons(comparisons: Sequence[Comparison]) -> dict[str, list[dict[str, Any]]]:
    pairs: dict[str, list[dict[str, Any]]] = {}
    for entry in comparisons:
        pairs.setdefault(f"{entry.left_label} − {entry.right_label}", []).append(_comparison(entry))
    return pairs


def _comparison(entry: Comparison) -> dict[str, Any]:
    return {
        "figure": entry.column.title,
        "difference": entry.difference,
        "unit": "points" if entry.column.is_accuracy else "nats",
        "n": entry.n,
        "p": "" if entry.p is None else shown_p(entry.p).removeprefix("p = ").removeprefix("p "),
        "verdict": entry.verdict,
    }


def nearest_to_paper(columns: Sequence[Column]) -> Column | None:
    """Our top-1 by the probe that is nearest to the paper's."""
    ours = {column.probe: column for column in columns if column.metric == "top1"}
    return next((ours[probe] for probe in NEAREST if probe in ours), None)


def _papers(rows: Sequence[Row], columns: Sequence[Column]) -> list[list[str]]:
    """The paper's top-1 and top-5 of each row, its gap to the teacher, and ours by the probe nearest to the paper's."""
    if not any(figure is not None for row in rows for figure in row.paper):
        return []
    teacher = next((index for index, row in enumerate(rows) if row.name == TEACHER), None)
    nearest = nearest_to_paper(columns)
    ours = [cell.mean if cell else None for cell in nearest.cells] if nearest else [None] * len(rows)
    lines = []
    for index, row in enumerate(rows):
        paper_gap = gap(row.paper[0], rows[teacher].paper[0]) if teacher not in (None, index) else None
        our_gap = gap(ours[index], ours[teacher]) if teacher not in (None, index) else None
        top1, top5 = ("" if figure is None else f"{figure:.1f}" for figure in row.paper)
        lines.append([top1, top5, signed(paper_gap), signed(our_gap)])
    return lines


def _claim(claim: Claim) -> dict[str, Any]:
    """The lines of a claim: its pairs, then, of several, all together."""
    lines = [
        {"label": f"{pair.better} − {pair.worse}", "paper": signed(pair.paper), "cells": _cells(pair.judged)}
        for pair in claim.pairs
    ]
    if len(lines) > 1:
        lines.append({"label": "all pairs", "paper": "", "cells": _cells(claim.judged)})
    return {"claim": claim.claim, "lines": lines, "figures": list(claim.judged)}


def _cells(judged: Mapping[str, Judged]) -> list[dict[str, Any]]:
    return [
        {
            "difference": "" if entry.mean is None else signed(entry.mean, entry.sd),
            "n": entry.n or "",
            "p": "" if entry.p is None else shown_p(entry.p).removeprefix("p = ").removeprefix("p "),
            "verdict": entry.verdict,
        }
        for entry in judged.values()
    ]


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
