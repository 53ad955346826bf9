"""When a difference over seeds is said to hold: paired t-tests, corrected for how many a table has, and the rules."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

HOLDS, FAILS, NOISE, FEW, UNMEASURED = "holds", "does not hold", "within noise", "too few seeds", "not measured"
_DECIDING = (FAILS, UNMEASURED, FEW, NOISE, HOLDS)  # the first that some pair has is the verdict on every pair
P_HOLDS = 0.05
POWER = 0.8
FEWEST_SEEDS = 3

EVERY, MEAN, NO_WORSE = "every", "mean", "no_worse"
_TEST = f"a two-sided paired t-test over seeds; fewer than {FEWEST_SEEDS} shared seeds are too few"
DIFFERENCE_RULE = f"Differences are paired by seed: {_TEST}. Corrected p < {P_HOLDS} holds, otherwise within noise."
PAIR_RULE = (
    f"A pair: {_TEST}. Corrected p < {P_HOLDS} with the better row ahead holds, with it behind does not hold, "
    "otherwise within noise."
)
RULES = {
    EVERY: "Every pair: holds if each pair holds, does not hold if one of them does not. The weakest pair decides and "
    "is marked; no mean over pairs is taken.",
    MEAN: "Mean of the pairs: the same test of the pairs' mean for each seed; a pair alone may go the other way.",
    NO_WORSE: "No worse: one-sided, against a margin, for every pair: p is that of a mean at or below −margin, and “at "
    "least” is the lower 95 % bound of the mean. Holds if corrected p < 0.05 in each pair, does not hold if one is as "
    "surely behind by more than the margin, otherwise within noise. The weakest pair is marked.",
}


def table_rules(tests: int) -> list[str]:
    """What else must be said of a table with that many tests."""
    return [
        f"p (Holm) is p corrected for the {tests} tests of this table, and decides; p beside it and the 95 % interval "
        "of the mean are not corrected. Detectable: the smallest true difference that so many seeds show in 80 % of "
        "studies (two-sided 5 %, not corrected), taking the sd for the true one."
    ]


@dataclass(frozen=True)
class PairedTest:
    """left - right in one figure, over the seeds that two rows share.

    Attributes:
        differences: points of percent or nats, one a seed; empty where a row was not measured.
        margin: by how many points `left` may be behind and still be no worse; None where it must be ahead.
        claimed: whether `left` is said to be ahead; otherwise a difference in either direction holds.
        tests: how many its table has.
        p_holm: p, corrected for them; None until `corrected` has seen the table.
    """

    differences: tuple[float, ...]
    margin: float | None = None
    claimed: bool = True
    tests: int = 1
    p_holm: float | None = None

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
        """Two-sided against zero; one-sided against the margin where there is one."""
        if self.n < FEWEST_SEEDS:
            return None
        return paired_p(self.differences) if self.margin is None else self.doubt

    @property
    def doubt(self) -> float:
        """One-sided p of `left` being no further ahead than it must be: the larger, the weaker the pair."""
        return ahead_p(self.differences, over=-(self.margin or 0.0))

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % confidence of the mean, two-sided."""
        return None if self.n < FEWEST_SEEDS else (self._bound(-1, 1 - P_HOLDS / 2), self._bound(1, 1 - P_HOLDS / 2))

    @property
    def bound(self) -> float | None:
        """The lower one-sided 95 % bound of the mean, where a margin asks for one."""
        return None if self.margin is None or self.n < FEWEST_SEEDS else self._bound(-1, 1 - P_HOLDS)

    def _bound(self, side: int, confidence: float) -> float:
        from scipy.stats import t

        wide = float(t.ppf(confidence, self.n - 1)) / math.sqrt(self.n)
        return statistics.fmean(self.differences) + side * wide * statistics.stdev(self.differences)

    @property
    def detectable(self) -> float | None:
        """The smallest true difference that as many seeds show with 80 % power, were this sd the true one."""
        return None if self.n < FEWEST_SEEDS else (self.sd or 0.0) / math.sqrt(self.n) * _noncentrality(self.n)

    @property
    def verdict(self) -> str:
        """One of the five words above."""
        if self.p is None or self.mean is None:
            return FEW if self.n else UNMEASURED
        decisive = self.p if self.p_holm is None else self.p_holm
        if self.margin is not None:
            return HOLDS if decisive < P_HOLDS else FAILS if (1 - self.p) * self.tests < P_HOLDS else NOISE
        if decisive >= P_HOLDS:
            return NOISE
        return HOLDS if self.mean > 0 or not self.claimed else FAILS


def corrected(judged: Sequence[PairedTest]) -> list[PairedTest]:
    """All tests of one table, each with its p as Holm (1979) corrects it for their number."""
    tested = sorted((one.p, place) for place, one in enumerate(judged) if one.p is not None)
    found, largest = list(judged), 0.0
    for rank, (p, place) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        found[place] = replace(judged[place], p_holm=largest, tests=len(tested))
    return found


@dataclass(frozen=True)
class Outcome:
    """A claim judged in one figure.

    Attributes:
        verdict: one of the five words.
        evidence: what the verdict rests on: the mean of the pairs or the weakest pair.
        weakest: the place of that pair; None where a mean was judged, or nothing could be.
    """

    verdict: str
    evidence: PairedTest
    weakest: int | None = None


def judge_every(pairs: Sequence[PairedTest]) -> Outcome:
    """All pairs must hold, so the weakest decides; a pair that fails decides though others were not measured."""
    found = {pair.verdict for pair in pairs}
    verdict = next(verdict for verdict in _DECIDING if verdict in found)
    if verdict in (UNMEASURED, FEW):
        return Outcome(verdict, PairedTest(()))
    tested = [place for place, pair in enumerate(pairs) if pair.p is not None]
    weakest = max(tested, key=lambda place: pairs[place].doubt)
    return Outcome(verdict, pairs[weakest], weakest)


def paired_p(differences: Sequence[float]) -> float:
    """Two-sided paired t-test of differences, three or more; 1 where all are zero."""
    if _constant(differences):  # t is 0/0 or infinite
        return 1.0 if math.isclose(differences[0], 0.0, abs_tol=1e-12) else 0.0
    from scipy.stats import ttest_1samp  # the paired test is the one-sample test of the differences

    return float(ttest_1samp(differences, 0.0).pvalue)


def ahead_p(differences: Sequence[float], *, over: float) -> float:
    """One-sided paired t-test, three or more: p of a mean of `over` or less; 0.5 where all differences are `over`."""
    if _constant(differences):
        level = math.isclose(differences[0], over, abs_tol=1e-12)
        return 0.5 if level else float(differences[0] < over)
    from scipy.stats import ttest_1samp

    return float(ttest_1samp(differences, over, alternative="greater").pvalue)


def _constant(differences: Sequence[float]) -> bool:
    return math.isclose(statistics.stdev(differences), 0.0, abs_tol=1e-12)


@cache
def _noncentrality(n: int) -> float:
    """How many standard errors from zero a mean must truly lie to be found, on its side, with the power asked for."""
    from scipy.optimize import brentq
    from scipy.stats import nct, t

    critical = float(t.ppf(1 - P_HOLDS / 2, n - 1))
    return float(brentq(lambda far: nct.sf(critical, n - 1, far) - POWER, 0.0, 4 * critical))


def shown_p(p: float | None) -> str:
    """'0.012', or '< 0.001'; empty where nothing was tested."""
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
