"""Differences paired by seed, and when a difference is said to hold: a paired t-test, two-sided, p < 0.05.

The same seed gives two students the same views in the same order, so pairing removes what they share. The p-values are
not corrected for the number of comparisons; the page says so.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attndistill.report.columns import Column
from attndistill.report.judgement import FEW, FEWEST_SEEDS, HOLDS, NOISE, NOT_CORRECTED, P_HOLDS, paired_p, shown_p
from attndistill.report.provenance import features_by_row, made_by, measured_on
from attndistill.report.results import TEACHER, Measurement, Row, data_of
from attndistill.report.sheet import Cell, Heading, Sheet, as_csv

SCRATCH, PROJECTOR_ALIGNMENT, ATTNDISTILL = "scratch", "projector_alignment", "attndistill"
RULE = (
    f"Differences are paired by seed. A two-sided paired t-test with p < {P_HOLDS} says holds, otherwise within noise; "
    f"fewer than {FEWEST_SEEDS} shared seeds are too few. {NOT_CORRECTED}"
)


@dataclass(frozen=True)
class Comparison:
    """`left` minus `right` over the seeds both have.

    Attributes:
        left, right: the models' names; left_label, right_label as printed.
        column: the figure compared.
        n: shared seeds.
        mean: of the differences; points of percent, or nats.
        sd: sample sd of the differences; None below two shared seeds.
        p: two-sided paired t-test; None below three shared seeds.
    """

    left: str
    right: str
    left_label: str
    right_label: str
    column: Column
    n: int
    mean: float
    sd: float | None
    p: float | None

    @property
    def verdict(self) -> str:
        if self.p is None:
            return FEW
        return HOLDS if self.p < P_HOLDS else NOISE

    @property
    def pair(self) -> str:
        return f"{self.left_label} − {self.right_label}"

    @property
    def unit(self) -> str:
        return "points" if self.column.is_accuracy else "nats"

    @property
    def difference(self) -> str:
        """'+1.40 ± 0.55'."""
        digits = self.column.digits + 1 if self.column.is_accuracy else self.column.digits
        spread = "" if self.sd is None else f" ± {self.sd:.{digits}f}"
        return f"{self.mean:+.{digits}f}".replace("-", "−") + spread

    @property
    def sentence(self) -> str:
        seeds = f"n = {self.n} shared seed{'s' if self.n > 1 else ''}"
        p = shown_p(self.p)
        evidence = f"{seeds}, p {p if p.startswith('<') else f'= {p}'}" if p else seeds
        return f"{self.pair}, {self.column.title}: {self.difference} {self.unit} ({evidence}): {self.verdict}."


def compare(rows: Sequence[Row], columns: Sequence[Column]) -> list[Comparison]:
    """AttnDistill against projector alignment, then every student against the one trained from scratch.

    Top-1 accuracies and KL to the teacher are compared. Pairs without a shared seed are left out.
    """
    index = {row.name: place for place, row in enumerate(rows)}
    pairs = [(ATTNDISTILL, PROJECTOR_ALIGNMENT)] if {ATTNDISTILL, PROJECTOR_ALIGNMENT} <= index.keys() else []
    if SCRATCH in index:
        pairs += [(name, SCRATCH) for name in index if name not in (TEACHER, SCRATCH)]
    found = []
    for left, right in pairs:
        for column in columns:
            if column.metric == "top5":
                continue
            one, other = column.cells[index[left]], column.cells[index[right]]
            differences = paired_differences(one, other) if one and other else []
            if differences:
                found.append(comparison_of(rows[index[left]], rows[index[right]], column, differences))
    return found


def paired_differences(left: Measurement, right: Measurement) -> list[float]:
    """left - right for each seed that both were measured with, in the order of seeds."""
    ours = dict(zip(left.seeds, left.values, strict=True))
    theirs = dict(zip(right.seeds, right.values, strict=True))
    return [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]


def comparison_of(left: Row, right: Row, column: Column, differences: Sequence[float]) -> Comparison:
    """left - right, from the differences of the seeds they share (one or more)."""
    return Comparison(
        left=left.name,
        right=right.name,
        left_label=left.label,
        right_label=right.label,
        column=column,
        n=len(differences),
        mean=statistics.fmean(differences),
        sd=statistics.stdev(differences) if len(differences) > 1 else None,
        p=paired_p(differences) if len(differences) >= FEWEST_SEEDS else None,
    )


def comparisons_dict(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """'attndistill - scratch' -> probe -> metric -> mean, sd, n, p, verdict."""
    table: dict[str, Any] = {}
    for entry in comparisons:
        figures = {"mean": entry.mean, "sd": entry.sd, "n": entry.n, "p": entry.p, "verdict": entry.verdict}
        pair = table.setdefault(f"{entry.left} - {entry.right}", {})
        pair.setdefault(entry.column.probe, {})[entry.column.metric] = {
            key: value for key, value in figures.items() if value is not None
        }
    return table


def comparisons_csv(comparisons: Sequence[Comparison], rows: Sequence[Row]) -> str:
    """One line a pair and figure, at full precision, with what it was measured on and by."""
    features: Mapping[str, str] = {row.name: row.probe.feature for row in rows if row.probe}
    head = ["left", "right", "left_feature", "right_feature", "figure", "unit", "protocol", "mean", "sd", "n", "p"]
    lines: list[list[Any]] = [[*head, "verdict", *data_of(rows)]]
    for entry in comparisons:
        accuracy = entry.column.is_accuracy  # the feature is what a probe judges
        line: list[Any] = [entry.left, entry.right]
        line += [features.get(name) if accuracy else None for name in (entry.left, entry.right)]
        line += [entry.column.title, entry.unit, entry.column.protocol, entry.mean, entry.sd, entry.n, entry.p]
        lines.append([*line, entry.verdict, *data_of(rows).values()])
    return as_csv(lines)


def comparisons_sheet(comparisons: Sequence[Comparison], rows: Sequence[Row], columns: Sequence[Column]) -> Sheet:
    """The differences as they are printed, a group for each pair."""
    headings = [Heading("Difference", left=True), Heading("Mean ± sd"), Heading("Unit", left=True)]
    headings += [Heading("Seeds"), Heading("p"), Heading("Verdict", left=True)]
    groups: dict[str, list[list[Cell]]] = {}
    for entry in comparisons:
        texts = [entry.column.title, entry.difference, entry.unit, str(entry.n), shown_p(entry.p), entry.verdict]
        groups.setdefault(entry.pair, []).append([Cell(text) for text in texts])
    made = [*made_by(columns), *features_by_row(rows, columns), *measured_on(rows)]
    return Sheet(headings, list(groups.items()), [RULE, *made])
