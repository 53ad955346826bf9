"""The stated rules: which differences hold, by a two-sided test, against a margin, and of every pair."""

import math

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp

from attndistill.report.judgement import Judged, judge_every

# differences over three seeds; two-sided paired t-test, t = mean / (sd / sqrt 3)
CASES = [
    ((1.9, 2.0, 2.1), "holds"),
    ((-1.9, -2.0, -2.1), "does not hold"),
    ((1.0, 2.0, 3.0), "within noise"),  # t = 3.46, p = 0.074
    ((0.0, 0.0, 0.0), "within noise"),
    ((2.0, 2.1), "too few seeds"),
    ((), "not measured"),
]


@pytest.mark.parametrize(("differences", "verdict"), CASES)
def test_the_verdict_follows_the_stated_rule(differences, verdict):
    assert Judged(differences).verdict == verdict


def test_the_p_value_is_the_paired_tests():
    assert Judged((1.0, 2.0, 3.0)).p == pytest.approx(0.0742, abs=1e-4)


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ((-0.5, -0.4, -0.6), "holds"),  # behind, by surely less than one point
        ((-1.9, -2.0, -2.1), "does not hold"),
        ((-1.1, -0.9, -1.0), "within noise"),  # at the margin
        ((1.0, -3.0, 2.0), "within noise"),
        ((0.0, 0.0, 0.0), "holds"),
        ((-1.0, -1.0, -1.0), "within noise"),
        ((-2.0, -2.0, -2.0), "does not hold"),
        ((0.0, 0.0), "too few seeds"),
    ],
)
def test_no_worse_is_judged_against_the_margin(differences, verdict):
    assert Judged(differences, margin=1.0).verdict == verdict


@pytest.mark.parametrize("seed", range(5))
def test_no_worse_holds_exactly_where_the_one_sided_bound_is_above_the_margin(seed):
    differences = np.random.default_rng(seed).normal(-0.4, 0.5, 4)
    judged = Judged(tuple(differences), margin=1.0)
    bound = differences.mean() - t.ppf(0.95, 3) * differences.std(ddof=1) / math.sqrt(4)
    assert judged.bound == pytest.approx(bound)
    assert judged.p == pytest.approx(ttest_1samp(differences, -1.0, alternative="greater").pvalue)
    assert (judged.verdict == "holds") == (bound > -1.0)


HOLDING, FAILING, NOISY = Judged((2.0, 2.1, 1.9)), Judged((-2.0, -2.1, -1.9)), Judged((3.0, -2.0, 1.0))


@pytest.mark.parametrize(
    ("pairs", "verdict", "weakest"),
    [
        ([HOLDING, HOLDING], "holds", 0),
        ([HOLDING, NOISY], "within noise", 1),
        ([HOLDING, NOISY, FAILING], "does not hold", 2),
        ([HOLDING, Judged(())], "not measured", None),
        ([HOLDING, Judged((1.0,))], "too few seeds", None),
        ([FAILING, Judged(())], "does not hold", 0),
    ],
)
def test_every_pair_is_as_good_as_its_weakest(pairs, verdict, weakest):
    outcome = judge_every(pairs)
    assert (outcome.verdict, outcome.weakest) == (verdict, weakest)
    if weakest is not None:
        assert outcome.evidence is pairs[weakest]
