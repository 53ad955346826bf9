"""What the paper claims about its rows, judged here: does the better row beat the worse one, seed by seed?

A claim of several pairs is judged on the mean of its pairs for each seed, so that its p-value counts seeds, not pairs.
"""

import csv
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

from attndistill.report.comparison import FEWEST_SEEDS, P_HOLDS, paired_differences, paired_p
from attndistill.report.results import Row
from attndistill.report.table import Column

HOLDS, FAILS, NOISE, FEW, UNMEASURED = "holds", "does not hold", "within noise", "too few seeds", "not measured"


@dataclass(frozen=True)
class Judged:
    """better - worse in one figure, over the seeds that all rows share.

    Attributes:
        differences: points of percent, one a seed; empty where a row was not measured.
    """

    differences: tuple[float, ...]

    @property
    def n(self) -> int:
        return len(self.differences)

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.differences) if self.n else None

    @property
    def sd(self) -> float | None:
        return statistics.stdev(self.differences) if self.n > 1 else None

    @property
    def p(self) -> float | None:
        return paired_p(self.differences) if self.n >= FEWEST_SEEDS else None

    @property
    def verdict(self) -> str:
        """One of the five words above; the test is two-sided, so a significant opposite does not hold."""
        if self.p is None or self.mean is None:
            return FEW if self.n else UNMEASURED
        if self.p >= P_HOLDS:
            return NOISE
        return HOLDS if self.mean > 0 else FAILS


@dataclass(frozen=True)
class Pair:
    """One pair of a claim: labels, the paper's top-1 difference (None where not legible), ours by figure."""

    better: str
    worse: str
    paper: float | None
    judged: Mapping[str, Judged]


@dataclass(frozen=True)
class Claim:
    """A claim, its pairs, and the judgement of all pairs together, by figure ("k-NN top-1")."""

    claim: str
    pairs: Sequence[Pair]
    judged: Mapping[str, Judged]


def judge(claims: Sequence[Mapping[str, Any]], rows: Sequence[Row], columns: Sequence[Column]) -> list[Claim]:
    """Judge each {"claim", "better", "worse"} (names of rows, paired) by every top-1 accuracy."""
    places = {row.name: index for index, row in enumerate(rows)}
    figures = [column for column in columns if column.metric == "top1"]
    judged = []
    for claim in claims:
        pairs = [(places[better], places[worse]) for better, worse in zip(claim["better"], claim["worse"], strict=True)]
        found = [_pair(rows, figures, *pair) for pair in pairs]
        together = {column.title: _together(column, pairs) for column in figures}
        judged.append(Claim(claim["claim"], found, together))
    return judged


def _pair(rows: Sequence[Row], figures: Sequence[Column], better: int, worse: int) -> Pair:
    ours, theirs = rows[better].paper[0], rows[worse].paper[0]
    paper = None if ours is None or theirs is None else ours - theirs
    judged = {column.title: _together(column, [(better, worse)]) for column in figures}
    return Pair(rows[better].label, rows[worse].label, paper, judged)


def _together(column: Column, pairs: Sequence[tuple[int, int]]) -> Judged:
    """The pairs' mean difference for each seed that every row of every pair has."""
    cells = [(column.cells[better], column.cells[worse]) for better, worse in pairs]
    measured = [(better, worse) for better, worse in cells if better is not None and worse is not None]
    if len(measured) < len(pairs):
        return Judged(())
    shared = set.intersection(*({*better.seeds} & {*worse.seeds} for better, worse in measured))
    each = [
        [
            difference
            for seed, difference in zip(seeds, paired_differences(better, worse), strict=True)
            if seed in shared
        ]
        for better, worse in measured
        for seeds in [sorted({*better.seeds} & {*worse.seeds})]
    ]
    return Judged(tuple(statistics.fmean(differences) for differences in zip(*each, strict=True)))


def claims_dict(claims: Sequence[Claim]) -> dict[str, Any]:
    """claim -> figure -> mean, sd, n, p, verdict of all its pairs; what was not measured has the verdict alone."""
    return {
        claim.claim: {
            figure: {
                key: value for key in ("mean", "sd", "n", "p", "verdict") if (value := getattr(judged, key)) is not None
            }
            for figure, judged in claim.judged.items()
        }
        for claim in claims
    }


def claims_csv(claims: Sequence[Claim]) -> str:
    """One line a pair and figure, then one for all pairs of the claim ("all", "all"), at full precision."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["claim", "better", "worse", "paper_top1", "figure", "mean", "sd", "n", "p", "verdict"])
    for claim in claims:
        for pair in (*claim.pairs, Pair("all", "all", None, claim.judged)):
            for figure, judged in pair.judged.items():
                numbers = [judged.mean, judged.sd, judged.n, judged.p]
                writer.writerow([claim.claim, pair.better, pair.worse, pair.paper, figure, *numbers, judged.verdict])
    return text.getvalue()
