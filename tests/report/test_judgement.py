"""The stated rules: which differences hold, by a two-sided test, against a margin, of every pair, of many tests."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp

from attndistill.report.judgement import PairedTest, corrected, judge_every

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
    assert PairedTest(differences).verdict == verdict


def test_the_p_value_is_the_paired_tests():
    assert PairedTest((1.0, 2.0, 3.0)).p == pytest.approx(0.0742, abs=1e-4)


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
    assert PairedTest(differences, margin=1.0).verdict == verdict


@pytest.mark.parametrize("seed", range(5))
def test_no_worse_holds_exactly_where_the_one_sided_bound_is_above_the_margin(seed):
    differences = np.random.default_rng(seed).normal(-0.4, 0.5, 4)
    judged = PairedTest(tuple(differences), margin=1.0)
    bound = differences.mean() - t.ppf(0.95, 3) * differences.std(ddof=1) / math.sqrt(4)
    assert judged.bound == pytest.approx(bound)
    assert judged.p == pytest.approx(ttest_1samp(differences, -1.0, alternative="greater").pvalue)
    assert (judged.verdict == "holds") == (bound > -1.0)


HOLDING, FAILING, NOISY = PairedTest((2.0, 2.1, 1.9)), PairedTest((-2.0, -2.1, -1.9)), PairedTest((3.0, -2.0, 1.0))


@pytest.mark.parametrize(
    ("pairs", "verdict", "weakest"),
    [
        ([HOLDING, HOLDING], "holds", 0),
        ([HOLDING, NOISY], "within noise", 1),
        ([HOLDING, NOISY, FAILING], "does not hold", 2),
        ([HOLDING, PairedTest(())], "not measured", None),
        ([HOLDING, PairedTest((1.0,))], "too few seeds", None),
        ([FAILING, PairedTest(())], "does not hold", 0),
    ],
)
def test_every_pair_is_as_good_as_its_weakest(pairs, verdict, weakest):
    outcome = judge_every(pairs)
    assert (outcome.verdict, outcome.weakest) == (verdict, weakest)
    if weakest is not None:
        assert outcome.evidence is pairs[weakest]


def test_p_is_corrected_for_all_tests_of_the_table_as_holm_does():
    """p sorted, times 4, 3, 2 and 1, never falling; a row of too few seeds is no test."""
    tests = [
        PairedTest((1.0, 2.0, 3.0)),
        PairedTest((2.0, 2.1, 1.9)),
        PairedTest((1.0,)),
        PairedTest((0.5, 0.7, 0.6)),
        PairedTest((3.0, -2.0, 1.0)),
    ]
    p = [one.p for one in tests]
    assert sorted(filter(None, p)) == [p[1], p[3], p[0], p[4]]
    found = corrected(tests)
    assert [one.p_holm for one in found] == pytest.approx([2 * p[0], 4 * p[1], None, 3 * p[3], max(2 * p[0], p[4])])
    assert {one.tests for one in found if one.p_holm is not None} == {4}
    assert [one.verdict for one in found] == ["within noise", "holds", "too few seeds", "holds", "within noise"]


def test_what_holds_alone_may_be_noise_among_many():
    alone = PairedTest((1.0, 1.6, 1.2))  # p = 0.019
    assert corrected([alone])[0].verdict == "holds"
    assert corrected([alone, NOISY, NOISY])[0].verdict == "within noise"


def test_a_pair_behind_by_more_than_the_margin_fails_only_if_that_is_sure_among_all_tests():
    behind = PairedTest((-1.9, -2.0, -2.3), margin=1.0)
    assert behind.verdict == "does not hold"
    assert replace(behind, tests=20, p_holm=1.0).verdict == "within noise"


def test_the_interval_is_that_of_the_t_distribution_and_holds_zero_exactly_where_p_is_above_five_percent():
    for differences in ((1.0, 2.0, 3.0), (1.0, 1.6, 1.2), (-2.0, 4.0, 1.0, 0.5)):
        judged = PairedTest(differences)
        wanted = t.interval(
            0.95, len(differences) - 1, np.mean(differences), np.std(differences, ddof=1) / math.sqrt(judged.n)
        )
        assert judged.interval == pytest.approx(wanted)
        assert (judged.interval[0] < 0 < judged.interval[1]) == (judged.p > 0.05)
    assert PairedTest((1.0, 2.0)).interval is None


@pytest.mark.parametrize("n", [3, 5, 10])
def test_a_true_difference_as_large_as_the_detectable_one_is_found_in_four_of_five_studies(n):
    differences = tuple(np.random.default_rng(n).normal(1.0, 2.0, n))
    judged, random = PairedTest(differences), np.random.default_rng(0)
    studies = random.normal(judged.detectable, judged.sd, (20_000, n))
    assert (ttest_1samp(studies, 0.0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.01)
