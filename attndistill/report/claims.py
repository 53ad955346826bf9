"""What is claimed of the rows, judged here: is the better row ahead of the worse one, seed by seed?

How the pairs of a claim make one verdict is the claim's own choice (`judge` in rows.yaml): "X is best" needs every
pair; "on average" is the mean of the pairs for each seed, so that its p-value counts seeds, not pairs.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attndistill.report.columns import Column, signed
from attndistill.report.comparison import paired_differences
from attndistill.report.judgement import MEAN, NOT_CORRECTED, PAIR_RULE, RULES, Judged, Outcome, judge_every, shown_p
from attndistill.report.provenance import features_by_row, made_by, measured_on
from attndistill.report.results import Row, data_of
from attndistill.report.sheet import Cell, Heading, Sheet, as_csv


@dataclass(frozen=True)
class Pair:
    """Two rows of a claim, and their difference by figure ("k-NN top-1")."""

    better: Row
    worse: Row
    judged: Mapping[str, Judged]

    @property
    def label(self) -> str:
        return f"{self.better.label} − {self.worse.label}"

    @property
    def paper(self) -> float | None:
        """The paper's top-1 difference; None where one of the two is not legible."""
        ours, theirs = self.better.paper[0], self.worse.paper[0]
        return None if ours is None or theirs is None else ours - theirs


@dataclass(frozen=True)
class Claim:
    """A claim, how it is judged (a key of RULES), its pairs, and its outcome by figure."""

    claim: str
    judge: str
    margin: float | None
    pairs: Sequence[Pair]
    outcomes: Mapping[str, Outcome]

    @property
    def title(self) -> str:
        """The claim, and the margin that it leaves open."""
        if self.margin is None:
            return self.claim
        return f"{self.claim} (margin {self.margin:g} point{'' if self.margin == 1 else 's'})"


@dataclass(frozen=True)
class Entry:
    """What is printed of a difference in one figure."""

    difference: str
    remark: str
    n: str
    p: str
    verdict: str


@dataclass(frozen=True)
class Line:
    """A printed line of a claim: a pair, or all of them together."""

    label: str
    paper: str
    entries: Sequence[Entry]
    is_together: bool = False


def judge(claims: Sequence[Mapping[str, Any]], rows: Sequence[Row], columns: Sequence[Column]) -> list[Claim]:
    """Judge each claim by every top-1 accuracy.

    Args:
        claims: "claim", "better" and "worse" (names of rows, paired), "judge" (a key of RULES), "margin" if any.
        rows, columns: of the table.
    """
    places = {row.name: index for index, row in enumerate(rows)}
    figures = [column for column in columns if column.metric == "top1"]
    judged = []
    for claim in claims:
        margin = claim.get("margin")
        pairs = [(places[better], places[worse]) for better, worse in zip(claim["better"], claim["worse"], strict=True)]
        found = [
            Pair(rows[better], rows[worse], {c.title: Judged(_together(c, [(better, worse)]), margin) for c in figures})
            for better, worse in pairs
        ]
        if claim["judge"] == MEAN:
            means = {column.title: Judged(_together(column, pairs)) for column in figures}
            outcomes = {title: Outcome(mean.verdict, mean) for title, mean in means.items()}
        else:
            outcomes = {c.title: judge_every([pair.judged[c.title] for pair in found]) for c in figures}
        judged.append(Claim(claim["claim"], claim["judge"], margin, found, outcomes))
    return judged


def _together(column: Column, pairs: Sequence[tuple[int, int]]) -> tuple[float, ...]:
    """The pairs' mean difference for each seed that every row of every pair has; nothing where a row has no figure."""
    cells = [(column.cells[better], column.cells[worse]) for better, worse in pairs]
    measured = [(better, worse) for better, worse in cells if better is not None and worse is not None]
    if len(measured) < len(pairs):
        return ()
    each = []
    for better, worse in measured:
        seeds = sorted({*better.seeds} & {*worse.seeds})
        each.append(dict(zip(seeds, paired_differences(better, worse), strict=True)))
    shared = sorted(set.intersection(*(set(differences) for differences in each)))
    return tuple(statistics.fmean(differences[seed] for differences in each) for seed in shared)


def rules_of(claims: Sequence[Claim]) -> list[str]:
    """The rules by which these claims were judged, as sentences."""
    met = {claim.judge for claim in claims}
    return [PAIR_RULE, *(rule for name, rule in RULES.items() if name in met), NOT_CORRECTED]


def lines_of(claim: Claim) -> list[Line]:
    """A claim's pairs, then, of several, the verdict on all; the weakest pair is marked where it decides."""
    several = len(claim.pairs) > 1
    weakest = {title: outcome.weakest if several else None for title, outcome in claim.outcomes.items()}
    lines = [
        Line(
            pair.label,
            signed(pair.paper),
            [_entry(judged, "weakest" * (weakest[title] == place)) for title, judged in pair.judged.items()],
        )
        for place, pair in enumerate(claim.pairs)
    ]
    if several and claim.judge == MEAN:
        means = [_entry(outcome.evidence) for outcome in claim.outcomes.values()]
        lines.append(Line("mean of the pairs", "", means, is_together=True))
    elif several:
        verdicts = [Entry("", "", "", "", outcome.verdict) for outcome in claim.outcomes.values()]
        lines.append(Line("every pair", "", verdicts, is_together=True))
    return lines


def _entry(judged: Judged, mark: str = "") -> Entry:
    difference = "" if judged.mean is None else signed(judged.mean, judged.sd)
    bound = "" if judged.bound is None else f"at least {judged.bound:+.2f}".replace("-", "−")
    remark = ", ".join(filter(None, [bound, mark]))
    return Entry(difference, remark, str(judged.n or ""), shown_p(judged.p), judged.verdict)


def claims_sheet(claims: Sequence[Claim], rows: Sequence[Row], columns: Sequence[Column]) -> Sheet:
    """The claims as they are printed, a group for each."""
    headings = [Heading("Better − worse", left=True), Heading("top-1, points", "Paper")]
    for figure in claims[0].outcomes:
        headings += [Heading(name, figure) for name in ("mean ± sd", "n", "p")] + [
            Heading("verdict", figure, left=True)
        ]
    groups = []
    for claim in claims:
        lines = [
            [
                Cell(line.label, bold=line.is_together),
                Cell(line.paper),
                *(cell for entry in line.entries for cell in _cells(entry, bold=line.is_together)),
            ]
            for line in lines_of(claim)
        ]
        groups.append((claim.title, lines))
    top1 = [column for column in columns if column.metric == "top1"]
    made = [*made_by(top1), *features_by_row(rows, top1), *measured_on(rows)]
    return Sheet(headings, groups, ["Points of percent, paired by seed.", *rules_of(claims), *made])


def _cells(entry: Entry, *, bold: bool) -> list[Cell]:
    """Bold verdicts are those on a claim of several pairs."""
    return [Cell(entry.difference, small=entry.remark), Cell(entry.n), Cell(entry.p), Cell(entry.verdict, bold=bold)]


def claims_dict(claims: Sequence[Claim]) -> dict[str, Any]:
    """claim -> figure -> judge, verdict and the numbers it rests on: the mean's, or the weakest pair's, by name."""
    table: dict[str, Any] = {}
    for claim in claims:
        for figure, outcome in claim.outcomes.items():
            found = {"judge": claim.judge, "verdict": outcome.verdict, "margin": claim.margin}
            if outcome.weakest is not None and len(claim.pairs) > 1:
                found["weakest"] = claim.pairs[outcome.weakest].label
            found |= {key: getattr(outcome.evidence, key) for key in ("mean", "sd", "n", "p", "bound")}
            kept = {key: value for key, value in found.items() if value is not None}
            table.setdefault(claim.claim, {})[figure] = kept
    return table


def claims_csv(claims: Sequence[Claim], rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """A line for each pair and figure, then one for the claim, which has the weakest pair's numbers or the mean's."""
    protocols = {column.title: column.protocol for column in columns}
    head = ["claim", "judge", "margin", "scope", "better", "worse", "better_feature", "worse_feature", "paper_top1"]
    numbers = ["figure", "protocol", "mean", "sd", "n", "p", "bound", "verdict"]
    lines: list[list[Any]] = [[*head, *numbers, *data_of(rows)]]
    for claim in claims:
        start = [claim.claim, claim.judge, claim.margin]
        for pair in claim.pairs:
            for figure, judged in pair.judged.items():
                told = [figure, protocols[figure], *_numbers(judged), judged.verdict]
                lines.append([*start, "pair", *_named(pair), *told, *data_of(rows).values()])
        for figure, outcome in claim.outcomes.items():
            named = [None] * 5 if outcome.weakest is None else _named(claim.pairs[outcome.weakest])
            told = [figure, protocols[figure], *_numbers(outcome.evidence), outcome.verdict]
            lines.append([*start, "claim", *named, *told, *data_of(rows).values()])
    return as_csv(lines)


def _named(pair: Pair) -> list[Any]:
    features = [row.probe.feature if row.probe else None for row in (pair.better, pair.worse)]
    return [pair.better.label, pair.worse.label, *features, pair.paper]


def _numbers(judged: Judged) -> list[Any]:
    return [judged.mean, judged.sd, judged.n, judged.p, judged.bound]
