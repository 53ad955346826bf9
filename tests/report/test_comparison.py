"""Paired differences and the rule by which one is said to hold."""

import numpy as np
import pytest
from scipy.stats import ttest_rel

from attndistill.report.columns import columns_of
from attndistill.report.differences import compare, differences_table, headlines
from attndistill.report.entries import Entry
from attndistill.results import AttentionFile, Found, Measurement, ProbeFile

DATA = {"class_list_sha256": "ab" * 32, "data_digest": "cd" * 32}


def row(name: str, values, seeds=None, kl=None) -> Entry:
    seeds = range(len(values)) if seeds is None else seeds
    top1 = Measurement.of([float(value) for value in values], list(seeds), "knn/dino-v1")
    probes = {"knn": Found(top1=top1, top5=top1, selected={}, sweep={})}
    probe = ProbeFile(model=name, parameters=1, feature="f", probes=probes, **DATA)
    attention = kl and AttentionFile(model=name, kl_to_teacher=Measurement.of(kl, list(seeds), "kl"), **DATA)
    return Entry(name, name.title(), probe=probe, attention=attention)


def compared(*rows: Entry):
    return compare(rows, columns_of(rows))


def test_the_difference_and_its_p_value_are_those_of_the_paired_t_test():
    ours, theirs = [90.1, 90.9, 91.0, 89.8, 90.5], [89.5, 89.9, 90.2, 89.9, 89.1]
    (found,) = compared(row("attndistill", ours), row("projector_alignment", theirs))
    differences = np.subtract(ours, theirs)
    assert found.judged.n == 5
    assert found.judged.mean == pytest.approx(differences.mean())
    assert found.judged.sd == pytest.approx(differences.std(ddof=1))
    assert found.judged.p == pytest.approx(ttest_rel(ours, theirs).pvalue)


def test_only_shared_seeds_are_paired_whatever_their_order():
    ours = row("attndistill", [1.0, 2.0, 30.0, 4.0], seeds=[3, 2, 9, 1])
    theirs = row("projector_alignment", [10.0, 20.0, 30.0], seeds=[1, 2, 3])
    (found,) = compared(ours, theirs)
    assert found.judged.n == 3
    assert found.judged.mean == pytest.approx(((4 - 10) + (2 - 20) + (1 - 30)) / 3)


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([1.0, 1.1, 0.9, 1.0], "holds"),
        ([-1.0, -1.1, -0.9, -1.0], "holds"),
        ([1.0, -1.1, 0.9, -1.0], "within noise"),
        ([5.0, 5.1], "too few seeds"),
        ([5.0], "too few seeds"),
        ([0.5, 0.5, 0.5], "holds"),
        ([0.0, 0.0, 0.0], "within noise"),
    ],
)
def test_the_verdict_follows_the_stated_rule(differences, verdict):
    base = np.linspace(80, 81, len(differences))
    (found,) = compared(row("attndistill", base + differences), row("scratch", base))
    assert found.judged.verdict == verdict


def test_a_p_just_above_the_threshold_is_noise():
    base = np.zeros(5)
    below, above = (
        compared(row("attndistill", d), row("scratch", base))[0] for d in ([1, 2, 3, 1, 5], [0, 2, 3, 0, 5])
    )
    assert below.judged.p < 0.05 < above.judged.p
    assert (below.judged.verdict, above.judged.verdict) == ("holds", "within noise")


def test_every_student_is_compared_with_scratch_and_attndistill_with_projector_alignment_first():
    rows = [row(name, [1.0, 2.0, 4.0]) for name in ("teacher", "scratch", "projector_alignment", "attndistill", "mine")]
    pairs = [(found.left.name, found.right.name) for found in compared(*rows)]
    others = [(name, "scratch") for name in ("projector_alignment", "attndistill", "mine")]
    assert pairs == [("attndistill", "projector_alignment"), *others]


def test_the_sentence_says_how_it_was_found():
    ours = row("attndistill", [90.0, 91.0, 92.5], kl=[0.1, 0.11, 0.12])
    theirs = row("scratch", [89.0, 89.9, 91.5], kl=[0.4, 0.42, 0.43])
    accuracy, kl = compared(ours, theirs)
    assert accuracy.sentence == (
        "Attndistill − Scratch, k-NN top-1: +1.03 ± 0.06 points "
        "(95 % interval +0.89 to +1.18, n = 3 shared seeds, p = 0.001, p (Holm) = 0.001): holds."
    )
    assert kl.sentence.startswith("Attndistill − Scratch, KL to teacher: −0.307 ± 0.006 nats (95 % interval −0.321 to")


def test_the_page_begins_with_attndistill_against_projector_alignment():
    found = compared(*[row(name, [1.0, 2.0, 4.0]) for name in ("scratch", "projector_alignment", "attndistill")])
    (first,) = headlines(found, [])
    assert first.startswith("Attndistill − Projector_Alignment, k-NN top-1: +0.00 ± 0.00 points (95 % interval")
    assert "n = 3 shared seeds, p = 1.000, p (Holm) = 1.000" in first


def test_models_without_a_shared_seed_are_not_compared():
    assert compared(row("attndistill", [1.0], seeds=[1]), row("scratch", [1.0], seeds=[2])) == []


def test_the_table_holds_numbers_and_leaves_out_what_is_unknown():
    found = compared(row("attndistill", [2.0, 4.0]), row("scratch", [1.0, 1.0]))
    figures = differences_table(found)["attndistill - scratch"]["knn"]["top1"].model_dump(exclude_unset=True)
    assert figures == {"mean": 2.0, "sd": pytest.approx(2**0.5), "n": 2, "verdict": "too few seeds"}


def test_every_comparison_of_the_table_counts_in_the_correction():
    rows = [row(name, values) for name, values in {"attndistill": [3.0, 4.2, 5.1], "mine": [2.0, 3.5, 3.9]}.items()]
    found = compared(row("scratch", [1.0, 2.0, 3.0]), *rows)
    assert [one.judged.tests for one in found] == [2, 2]
    assert min(one.judged.p_holm for one in found) == pytest.approx(2 * min(one.judged.p for one in found))
