"""Differences paired by seed: of the students among each other, and those that the rows file claims.

The same seed gives two students the same views in the same order, so pairing removes what they share. How the pairs
of a claim make one verdict is the claim's own choice (`judge` in rows.yaml): "X is best" needs every pair; "on average"
is the mean of the pairs for each seed, so that its p-value counts seeds, not pairs.
"""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from attndistill.config.rows import Claim
from attndistill.core.words import shown
from attndistill.report.columns import Column, made_by, usual_feature
from attndistill.report.entries import SCRATCH, TEACHER, Entry, data_of
from attndistill.report.judgement import (
    DIFFERENCE_RULE,
    MEAN,
    PAIR_RULE,
    RULES,
    UNMEASURED,
    Outcome,
    PairedTest,
    corrected,
    judge_every,
    shown_p,
    table_rules,
)
from attndistill.report.sheet import Cell, Heading, Sheet
from attndistill.results import DifferenceSummary, Measurement

PROJECTOR_ALIGNMENT, ATTNDISTILL = "projector_alignment", "attndistill"
_NUMBERS = (
    Heading("Mean ± sd", fields=("mean", "sd", "bound")),
    Heading("95 % interval", fields=("low", "high")),
    Heading("n", fields=("n",)),
    Heading("p", fields=("p",)),
    Heading("p (Holm)", fields=("p_holm",)),
    Heading("Detectable", fields=("detectable",)),
    Heading("Verdict", left=True, fields=("verdict",)),
)


@dataclass(frozen=True)
class Difference:
    """`left` minus `right` in one column, over the seeds both have."""

    left: Entry
    right: Entry
    column: Column
    judged: PairedTest

    @property
    def label(self) -> str:
        return f"{self.left.label} − {self.right.label}"

    @property
    def paper(self) -> float | None:
        """The paper's top-1 difference; None where one of the two is not legible, or another figure is compared."""
        ours, theirs = self.left.paper[0], self.right.paper[0]
        return None if ours is None or theirs is None or not self.column.is_accuracy else ours - theirs

    @property
    def sentence(self) -> str:
        """For people, with all that it rests on."""
        judged, column = self.judged, self.column
        assert judged.mean is not None
        evidence = [f"n = {judged.n} shared seed{'s' * (judged.n > 1)}"]
        if judged.interval:
            evidence = [f"95 % interval {_interval(judged, column)}", *evidence]
            evidence += [f"{name} {_equals(p)}" for name, p in (("p", judged.p), ("p (Holm)", judged.p_holm))]
        found = f"{column.difference(judged.mean, judged.sd)} {column.difference_unit}".rstrip()
        return f"{self.label}, {column.title}: {found} ({', '.join(evidence)}): {judged.verdict}."


@dataclass(frozen=True)
class JudgedClaim:
    """A claim, its pairs in one column, and the outcome."""

    claim: Claim
    column: Column
    pairs: Sequence[Difference]
    outcome: Outcome

    @property
    def text(self) -> str:
        return shown(self.claim.claim, 500)

    @property
    def title(self) -> str:
        """The claim, and the margin that it leaves open."""
        margin = self.claim.margin
        return self.text if margin is None else f"{self.text} (margin {margin:g} point{'s' * (margin != 1)})"


def compare(entries: Sequence[Entry], columns: Sequence[Column]) -> list[Difference]:
    """AttnDistill against projector alignment, then every student against the one trained from scratch.

    The first figure of each evaluation is compared. Pairs without a shared seed are left out.
    """
    places = {entry.name: place for place, entry in enumerate(entries)}
    pairs = [(ATTNDISTILL, PROJECTOR_ALIGNMENT)] if {ATTNDISTILL, PROJECTOR_ALIGNMENT} <= places.keys() else []
    if SCRATCH in places:
        pairs += [(name, SCRATCH) for name in places if name not in (TEACHER, SCRATCH)]
    found = []
    for left, right in pairs:
        for column in (column for column in columns if column.is_first):
            differences = tuple(paired_differences(column, places[left], places[right]).values())
            if differences:
                judged = PairedTest(differences, claimed=False)
                found.append(Difference(entries[places[left]], entries[places[right]], column, judged))
    again = corrected([difference.judged for difference in found])
    return [replace(difference, judged=judged) for difference, judged in zip(found, again, strict=True)]


def judge(claims: Iterable[Claim], entries: Sequence[Entry], columns: Sequence[Column]) -> list[JudgedClaim]:
    """Judge each claim by the first accuracy of each evaluation; p is corrected for all tests of the table.

    Raises:
        ValueError: a claim about a row that there is not.
    """
    places = {entry.name: place for place, entry in enumerate(entries)}
    found: list[JudgedClaim] = []
    for claim in claims:
        for name in (*claim.better, *claim.worse):
            if name not in places:
                raise ValueError(f"claim {shown(claim.claim)!r}: row {name!r} given; allowed: {', '.join(places)}")
        pairs = [(places[better], places[worse]) for better, worse in zip(claim.better, claim.worse, strict=True)]
        for column in (column for column in columns if column.is_first and column.is_accuracy):
            each = [paired_differences(column, better, worse) for better, worse in pairs]
            judged = [
                Difference(entries[pair[0]], entries[pair[1]], column, PairedTest(tuple(seeds.values()), claim.margin))
                for pair, seeds in zip(pairs, each, strict=True)
            ]
            shared = sorted(set.intersection(*map(set, each)))
            mean = PairedTest(tuple(statistics.fmean(seeds[seed] for seeds in each) for seed in shared))
            found.append(JudgedClaim(claim, column, judged, Outcome(UNMEASURED, mean)))
    # Every test whose verdict is printed counts: those of the pairs, and those of means over several.
    again = iter(corrected([test for one in found for test in (*(p.judged for p in one.pairs), *_means(one))]))
    for place, one in enumerate(found):
        pairs_again = [replace(pair, judged=next(again)) for pair in one.pairs]
        means = [next(again) for _ in _means(one)]
        evidence = means[0] if means else pairs_again[0].judged
        by_mean = one.claim.judge == MEAN
        outcome = Outcome(evidence.verdict, evidence) if by_mean else judge_every([p.judged for p in pairs_again])
        found[place] = replace(one, pairs=pairs_again, outcome=outcome)
    return found


def _means(one: JudgedClaim) -> list[PairedTest]:
    return [one.outcome.evidence] if one.claim.judge == MEAN and len(one.pairs) > 1 else []


def paired_differences(column: Column, left: int, right: int) -> dict[int, float]:
    """left - right for each seed that both were measured with, in the order of seeds; none where one was not."""

    def values(cell: Measurement | None) -> dict[int, float]:
        return dict(zip(cell.seeds, cell.values, strict=True)) if cell else {}

    ours, theirs = values(column.cells[left]), values(column.cells[right])
    return {seed: ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())}


def summary_of(judged: PairedTest, **more: Any) -> DifferenceSummary:
    """What table.json has of a difference; what is unknown is absent."""
    names = ("mean", "sd", "n", "interval", "p", "p_holm", "detectable", "bound", "margin", "verdict")
    found = {name: getattr(judged, name) for name in names} | {"tests": judged.tests if judged.p_holm else None} | more
    return DifferenceSummary(**{name: value for name, value in found.items() if value is not None})


def differences_table(differences: Sequence[Difference]) -> dict[str, dict[str, dict[str, DifferenceSummary]]]:
    """'attndistill - scratch' -> evaluation -> figure."""
    table: dict[str, dict[str, dict[str, DifferenceSummary]]] = {}
    for one in differences:
        pair = table.setdefault(f"{one.left.name} - {one.right.name}", {})
        pair.setdefault(one.column.evaluation.name, {})[one.column.metric] = summary_of(one.judged)
    return table


def claims_table(claims: Sequence[JudgedClaim]) -> dict[str, dict[str, DifferenceSummary]]:
    """claim -> figure's title -> judge, verdict and the numbers it rests on: the mean's, or the weakest pair's."""
    table: dict[str, dict[str, DifferenceSummary]] = {}
    for one in claims:
        more: dict[str, Any] = {"judge": one.claim.judge, "verdict": one.outcome.verdict, "margin": one.claim.margin}
        if one.outcome.weakest is not None and len(one.pairs) > 1:
            more["weakest"] = one.pairs[one.outcome.weakest].label
        table.setdefault(one.text, {})[one.column.title] = summary_of(one.outcome.evidence, **more)
    return table


def differences_sheet(differences: Sequence[Difference], entries: Sequence[Entry], columns: Sequence[Column]) -> Sheet:
    """A group for each pair, a line for each figure."""
    who = ("left", "right", "left_feature", "right_feature")
    headings = [Heading("Difference", left=True, fields=(*who, "figure", "unit", "protocol")), *_NUMBERS]
    headings.insert(2, Heading("Unit", left=True))
    groups: dict[str, list[list[Cell]]] = {}
    for one in differences:
        column = one.column
        features = [entry.feature if column.evaluation.on != "maps" else None for entry in (one.left, one.right)]
        told = (one.left.name, one.right.name, *features, column.title, column.difference_unit, column.protocol)
        cells = [Cell(column.title, values=told), *_numbers(one.judged, column)]
        groups.setdefault(one.label, []).append([*cells[:2], Cell(column.difference_unit), *cells[2:]])
    rules = [DIFFERENCE_RULE, *table_rules(_tests([one.judged for one in differences]))]
    return Sheet(headings, list(groups.items()), [*rules, *_made(entries, columns)], data_of(entries))


def claims_sheet(claims: Sequence[JudgedClaim], entries: Sequence[Entry], columns: Sequence[Column]) -> Sheet:
    """A group for each claim; in each figure a line a pair, then, of several pairs, the verdict on all."""
    who = ("claim", "judge", "margin", "scope", "better", "worse", "better_feature", "worse_feature")
    headings = [
        Heading("Better − worse", left=True, fields=who),
        Heading("Figure", left=True, fields=("figure", "protocol")),
    ]
    headings += [Heading("Paper, top-1", fields=("paper_top1",)), *_NUMBERS]
    groups: dict[str, list[list[Cell]]] = {}
    for one in claims:
        lines = groups.setdefault(one.title, [])
        several, column = len(one.pairs) > 1, one.column
        start, figure = (
            (one.text, one.claim.judge, one.claim.margin),
            Cell(column.title, values=(column.title, column.protocol)),
        )
        named = [(p.left.label, p.right.label, p.left.feature, p.right.feature) for p in one.pairs]
        for place, pair in enumerate(one.pairs):
            mark = "weakest" if several and one.outcome.weakest == place else ""
            who_cell = Cell(pair.label, values=(*start, "pair" if several else "claim", *named[place]))
            paper = Cell("" if pair.paper is None else column.difference(pair.paper), values=(pair.paper,))
            lines.append([who_cell, figure, paper, *_numbers(pair.judged, column, mark)])
        if several:
            evidence, weakest = one.outcome.evidence, one.outcome.weakest
            label = "mean of the pairs" if one.claim.judge == MEAN else "every pair"
            cells = [replace(cell, bold=True) for cell in _numbers(evidence, column)]
            if one.claim.judge != MEAN:  # the weakest pair's numbers: printed in its own line
                cells = [*(Cell(values=cell.values) for cell in cells[:-1]), cells[-1]]
            cells[-1] = Cell(one.outcome.verdict, bold=True, values=(one.outcome.verdict,))
            who_cell = Cell(label, bold=True, values=(*start, "claim", *(() if weakest is None else named[weakest])))
            lines.append([who_cell, figure, Cell(), *cells])
    tests = [pair.judged for one in claims for pair in one.pairs]
    rules = [PAIR_RULE, *(rule for name, rule in RULES.items() if name in {one.claim.judge for one in claims})]
    rules = ["Points of percent, paired by seed.", *rules, *table_rules(_tests(tests))]
    compared = [column for column in columns if column.is_first and column.is_accuracy]
    return Sheet(headings, list(groups.items()), [*rules, *_made(entries, compared)], data_of(entries))


def headlines(differences: Sequence[Difference], claims: Sequence[JudgedClaim]) -> list[str]:
    """What is found, first: AttnDistill against projector alignment; or the claims counted; or all that is compared."""
    direct = [one.sentence for one in differences if one.right.name == PROJECTOR_ALIGNMENT]
    counted = []
    for title in dict.fromkeys(one.column.title for one in claims):
        found = [one for one in claims if one.column.title == title]
        verdicts = Counter(one.outcome.verdict for one in found)
        told = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
        seeds = sorted({one.outcome.evidence.n for one in found if one.outcome.evidence.n})
        least = min((p for one in found if (p := one.outcome.evidence.p) is not None), default=None)
        n = f"students' seeds n = {', '.join(map(str, seeds)) or 0}"
        least_p = "" if least is None else f", smallest p {_equals(least)}"
        tests = _tests([pair.judged for one in claims for pair in one.pairs])
        counted.append(f"{len(found)} claims by {title}: {told} ({n}{least_p}, corrected for {tests} tests).")
    return direct or counted or [one.sentence for one in differences[:3]]


def _tests(judged: Sequence[PairedTest]) -> int:
    return max((one.tests for one in judged), default=1)


def _numbers(judged: PairedTest, column: Column, mark: str = "") -> list[Cell]:
    """One cell for each of _NUMBERS."""
    mean, bound, power, verdict = judged.mean, judged.bound, judged.detectable, judged.verdict
    remark = ", ".join(filter(None, ["" if bound is None else f"at least {column.difference(bound)}", mark]))
    return [
        Cell("" if mean is None else column.difference(mean, judged.sd), small=remark, values=(mean, judged.sd, bound)),
        Cell(_interval(judged, column), values=judged.interval or ()),
        Cell(str(judged.n or ""), values=(judged.n,)),
        Cell(shown_p(judged.p), values=(judged.p,)),
        Cell(shown_p(judged.p_holm), values=(judged.p_holm,)),
        Cell("" if power is None else column.difference(power).removeprefix("+"), values=(power,)),
        Cell(verdict, values=(verdict,)),
    ]


def _interval(judged: PairedTest, column: Column) -> str:
    return " to ".join(map(column.difference, judged.interval)) if judged.interval else ""


def _equals(p: float | None) -> str:
    text = shown_p(p)
    return text if text.startswith("<") else f"= {text}"


def _made(entries: Sequence[Entry], columns: Sequence[Column]) -> list[str]:
    """How the figures were made, and which models were judged by an unusual feature."""
    usual = usual_feature(entries, columns)
    others = [f"{entry.label}: {entry.feature}" for entry in entries if entry.probe and entry.feature != usual]
    features = [f"Features: {'; '.join([usual, *others])}."] if usual else []
    return [*made_by(columns), *features, *measured_on(entries)]


def measured_on(entries: Sequence[Entry]) -> list[str]:
    """The class list and the data by their digests; nothing where nobody measured."""
    found = data_of(entries)
    if not all(found.values()):
        return []
    return [f"Class list SHA-256 {found['class_list_sha256']}; data digest {found['data_digest']}."]
