"""The table: one line a model, one column a figure, each column of one protocol; as CSV, LaTeX and JSON."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

from attndistill.report.results import Measurement, Row

_TITLES = {"knn": "k-NN", "logistic": "Logistic regression", "linear": "Linear", "finetune": "Fine-tuning"}
NEAREST = ("linear", "logistic")  # to the linear probe of the paper's table, the nearest first
_METRICS = {"top1": "top-1", "top5": "top-5"}
_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    c: f"\\{c}" for c in "&%$#_{}"
}


@dataclass(frozen=True)
class Column:
    """A figure measured for every model by one protocol.

    Attributes:
        probe: its key in the files ('knn'), or 'attention'.
        metric: 'top1', 'top5' or 'kl_to_teacher'.
        protocol: by which every cell was measured.
        feature: what was evaluated; empty where it differs between models or does not apply.
        cells: one for each row; None where nobody measured.
    """

    probe: str
    metric: str
    protocol: str
    feature: str
    cells: tuple[Measurement | None, ...]

    @property
    def is_accuracy(self) -> bool:
        return self.metric in _METRICS

    @property
    def group(self) -> str:
        return _TITLES.get(self.probe, self.probe) if self.is_accuracy else "KL to teacher"

    @property
    def heading(self) -> str:
        return f"{_METRICS[self.metric]} (%)" if self.is_accuracy else "nats"

    @property
    def title(self) -> str:
        return f"{self.group} {_METRICS[self.metric]}" if self.is_accuracy else self.group

    @property
    def digits(self) -> int:
        return 1 if self.is_accuracy else 3

    def best(self, excluded: int | None) -> int | None:
        """The row of the best mean apart from the row `excluded`; None below two candidates."""
        means = [(cell.mean, row) for row, cell in enumerate(self.cells) if cell is not None and row != excluded]
        if len(means) < 2:
            return None
        return (max if self.is_accuracy else min)(means, key=lambda entry: entry[0])[1]


def columns_of(rows: Sequence[Row]) -> list[Column]:
    """Every column that somebody measured: the probes in their usual order, then KL to the teacher.

    Raises:
        ValueError: a column whose cells were measured by different protocols.
    """
    met = {name for row in rows if row.probe for name in row.probe.probes}
    order = [*(name for name in _TITLES if name in met), *sorted(met - set(_TITLES))]
    columns = []
    for probe in order:
        found = [row.probe.probes.get(probe) if row.probe else None for row in rows]
        features = {row.probe.feature for row, entry in zip(rows, found, strict=True) if row.probe and entry}
        feature = features.pop() if len(features) == 1 else ""
        for metric in _METRICS:
            cells = tuple(getattr(entry, metric) if entry else None for entry in found)
            columns += _column(rows, probe, metric, feature, cells)
    kl = tuple(row.attention.kl_to_teacher if row.attention else None for row in rows)
    return columns + _column(rows, "attention", "kl_to_teacher", "", kl)


def _column(
    rows: Sequence[Row], probe: str, metric: str, feature: str, cells: tuple[Measurement | None, ...]
) -> list[Column]:
    measured = [(row.name, cell.protocol) for row, cell in zip(rows, cells, strict=True) if cell]
    if not measured:
        return []
    first, protocol = measured[0]
    for name, other in measured[1:]:
        if other != protocol:
            raise ValueError(
                f"{probe} {metric}: {first} was measured by {protocol}, {name} by {other}; a column allows one protocol"
            )
    return [Column(probe, metric, protocol, feature, cells)]


def shown(cell: Measurement | None, digits: int) -> str:
    """'90.9 ± 0.4'; without sd below two seeds; empty where nobody measured."""
    if cell is None:
        return ""
    return f"{cell.mean:.{digits}f}" + ("" if cell.sd is None else f" ± {cell.sd:.{digits}f}")


def gap(figure: float | None, teacher: float | None) -> float | None:
    """Figure - teacher; None where either is missing."""
    return None if figure is None or teacher is None else figure - teacher


def signed(difference: float | None, sd: float | None = None) -> str:
    """'+1.4 ± 0.6' with a true minus sign; empty where there is nothing."""
    if difference is None:
        return ""
    return f"{difference:+.1f}".replace("-", "−") + ("" if sd is None else f" ± {sd:.1f}")


def seeds_of(columns: Sequence[Column], row: int) -> str:
    """The seed count of a row; all counts where its figures differ, empty without figures."""
    counts = sorted({cell.n for column in columns if (cell := column.cells[row]) is not None})
    return ", ".join(str(count) for count in counts)


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


def as_csv(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """One line a model; mean, sd, n and protocol of every figure, at full precision."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fields = [
        f"{column.probe}_{column.metric}_{part}" for column in columns for part in ("mean", "sd", "n", "protocol")
    ]
    writer.writerow(["model", "group", "label", "parameters", "feature", "paper_top1", "paper_top5", *fields])
    for index, row in enumerate(rows):
        line: list[Any] = [row.name, row.group, row.label]
        line += [row.probe.parameters, row.probe.feature] if row.probe else [None, None]
        line += row.paper
        for column in columns:
            cell = column.cells[index]
            line += [cell.mean, cell.sd, cell.n, cell.protocol] if cell else [None] * 4
        writer.writerow(line)
    return text.getvalue()


def as_tex(rows: Sequence[Row], columns: Sequence[Column], *, teacher: int | None) -> str:
    """A booktabs tabular; the best mean apart from the teacher's is bold."""
    papers = any(figure is not None for row in rows for figure in row.paper)
    headings = [*(column.heading for column in columns), *(["top-1 (%)", "top-5 (%)"] * papers)]
    heads, rules, at = ["", ""], [], 3
    for group, width in _spans(columns):
        heads.append(f"\\multicolumn{{{width}}}{{c}}{{{_tex(group)}}}")
        rules.append(f"\\cmidrule(lr){{{at}-{at + width - 1}}}")
        at += width
    lines = [
        "% needs \\usepackage{booktabs}; mean $\\pm$ sample sd over seeds",
        *(
            f"% {column.title}: {column.protocol}{', ' + column.feature if column.feature else ''}"
            for column in columns
        ),
        *(["% Paper: top-1 and top-5 of the paper's linear probe, on other data"] if papers else []),
        f"\\begin{{tabular}}{{lr{'c' * (len(columns) + 2 * papers)}c}}",
        "\\toprule",
        " & ".join([*heads, *([r"\multicolumn{2}{c}{Paper}"] * papers), ""]) + " \\\\",
        "".join(rules),
        " & ".join(["Method", "Parameters", *map(_tex, headings), "Seeds"]) + " \\\\",
        "\\midrule",
    ]
    for index, row in enumerate(rows):
        if index and row.group != rows[index - 1].group:
            lines.append("\\midrule")
        cells = [_tex(row.label), f"{row.probe.parameters:,}" if row.probe and row.probe.parameters else ""]
        for column in columns:
            text = shown(column.cells[index], column.digits).replace("±", "$\\pm$")
            cells.append(f"\\textbf{{{text}}}" if index == column.best(teacher) else text)
        cells += ["" if figure is None else f"{figure:.1f}" for figure in row.paper] * papers
        lines.append(" & ".join([*cells, seeds_of(columns, index)]) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _spans(columns: Sequence[Column]) -> list[tuple[str, int]]:
    spans: list[tuple[str, int]] = []
    for column in columns:
        if spans and spans[-1][0] == column.group:
            spans[-1] = (column.group, spans[-1][1] + 1)
        else:
            spans.append((column.group, 1))
    return spans


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)
