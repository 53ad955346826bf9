"""Differences paired by seed, and when a difference is said to hold: a paired t-test, two-sided, p < 0.05.

The same seed gives two students the same views in the same order, so pairing removes what they share. The p-values are
not corrected for the number of comparisons; the page says so.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from attndistill.report.results import Measurement, Row
from attndistill.report.table import Column

TEACHER, SCRATCH, PROJECTOR_ALIGNMENT, ATTNDISTILL = "teacher", "scratch", "projector_alignment", "attndistill"
P_HOLDS = 0.05
FEWEST_SEEDS = 3


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
            return "too few seeds"
        return "holds" if self.p < P_HOLDS else "within noise"

    @property
    def difference(self) -> str:
        """'+1.40 ± 0.55'."""
        digits = self.column.digits + 1 if self.column.is_accuracy else self.column.digits
        spread = "" if self.sd is None else f" ± {self.sd:.{digits}f}"
        return f"{self.mean:+.{digits}f}".replace("-", "−") + spread

    @property
    def sentence(self) -> str:
        unit = "points" if self.column.is_accuracy else "nats"
        seeds = f"n = {self.n} shared seed{'s' if self.n > 1 else ''}"
        evidence = seeds if self.p is None else f"{seeds}, {shown_p(self.p)}"
        return (
            f"{self.left_label} − {self.right_label}, {self.column.title}: "
            f"{self.difference} {unit} ({evidence}): {self.verdict}."
        )


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


def paired_p(differences: Sequence[float]) -> float:
    """Two-sided paired t-test of differences, three or more; 1 where all are zero."""
    if math.isclose(statistics.stdev(differences), 0.0, abs_tol=1e-12):  # t is 0/0 or infinite
        return 1.0 if math.isclose(differences[0], 0.0, abs_tol=1e-12) else 0.0
    from scipy.stats import ttest_1samp  # the paired test is the one-sample test of the differences

    return float(ttest_1samp(differences, 0.0).pvalue)


def shown_p(p: float) -> str:
    """'p = 0.012', or 'p < 0.001'."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


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
