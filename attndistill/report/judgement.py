"""When a difference over seeds is said to hold: paired t-tests, their thresholds, and the rules in words.

No p-value is corrected for the number of comparisons; NOT_CORRECTED is printed beside them.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

HOLDS, FAILS, NOISE, FEW, UNMEASURED = "holds", "does not hold", "within noise", "too few seeds", "not measured"
_DECIDING = (FAILS, UNMEASURED, FEW, NOISE, HOLDS)  # the first that some pair has is the verdict on every pair
P_HOLDS = 0.05
FEWEST_SEEDS = 3

EVERY, MEAN, NO_WORSE = "every", "mean", "no_worse"
PAIR_RULE = (
    f"A pair: a two-sided paired t-test over seeds; p < {P_HOLDS} with the better row ahead holds, p < {P_HOLDS} with "
    f"it behind does not hold, otherwise within noise; fewer than {FEWEST_SEEDS} shared seeds are too few."
)
RULES = {
    EVERY: "Every pair: holds if each pair holds, does not hold if one of them does not (an intersection-union test). "
    "The weakest pair decides and is marked; no mean over pairs is taken.",
    MEAN: "Mean of the pairs: the same test of the pairs' mean for each seed; a pair alone may go the other way.",
    NO_WORSE: "No worse: one-sided, against a margin, for every pair: holds if the lower 95 % bound of the mean "
    "difference (“at least”) is above −margin in each pair, does not hold if the upper 95 % bound is below −margin in "
    "one of them, otherwise within noise; p is that of a mean at or below −margin. The weakest pair is marked.",
}
NOT_CORRECTED = (
    "p is not corrected for the number of comparisons: of twenty differences that are nothing, "
    "one would be expected to pass."
)


@dataclass(frozen=True)
class Judged:
    """better - worse in one figure, over the seeds that the rows share.

    Attributes:
        differences: points of percent, one a seed; empty where a row was not measured.
        margin: by how many points `better` may be behind and still be no worse; None where it must be ahead.
    """

    differences: tuple[float, ...]
    margin: float | None = None

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
        """One-sided p of `better` being no further ahead than it must be: the larger, the weaker the pair."""
        return ahead_p(self.differences, over=-(self.margin or 0.0))

    @property
    def bound(self) -> float | None:
        """The lower one-sided 95 % bound of the mean, where a margin asks for one."""
        if self.margin is None or self.n < FEWEST_SEEDS:
            return None
        from scipy.stats import t

        wide = float(t.ppf(1 - P_HOLDS, self.n - 1)) / math.sqrt(self.n)
        return statistics.fmean(self.differences) - wide * statistics.stdev(self.differences)

    @property
    def verdict(self) -> str:
        """One of the five words above, by PAIR_RULE or against the margin."""
        if self.p is None or self.mean is None:
            return FEW if self.n else UNMEASURED
        if self.margin is not None:
            return HOLDS if self.p < P_HOLDS else FAILS if self.p > 1 - P_HOLDS else NOISE
        if self.p >= P_HOLDS:
            return NOISE
        return HOLDS if self.mean > 0 else FAILS


@dataclass(frozen=True)
class Outcome:
    """A claim judged in one figure.

    Attributes:
        verdict: one of the five words.
        evidence: what the verdict rests on: the mean of the pairs or the weakest pair.
        weakest: the place of that pair; None where a mean was judged, or nothing could be.
    """

    verdict: str
    evidence: Judged
    weakest: int | None = None


def judge_every(pairs: Sequence[Judged]) -> Outcome:
    """All pairs must hold, so the weakest decides; a pair that fails decides though others were not measured."""
    found = {pair.verdict for pair in pairs}
    verdict = next(verdict for verdict in _DECIDING if verdict in found)
    if verdict in (UNMEASURED, FEW):
        return Outcome(verdict, Judged(()))
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


def shown_p(p: float | None) -> str:
    """'0.012', or '< 0.001'; empty where nothing was tested."""
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
