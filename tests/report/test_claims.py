"""What the paper claims is judged as the claim asks: by every pair, by the pairs' mean, or against a margin."""

import csv
from io import StringIO

import pytest

from attndistill.report.build import build_report
from attndistill.report.claims import claims_csv, claims_dict, judge, lines_of
from attndistill.report.columns import Column
from attndistill.report.results import Measurement, Row

FIGURE = "k-NN top-1"


def row(name: str, top1: float | None = None) -> Row:
    return Row(name, name.upper(), "", None, None, None, None, None, paper=(top1, None))


def column(**cells: tuple[tuple[int, ...], tuple[float, ...]] | None) -> Column:
    found = tuple(cell and Measurement(protocol="p", seeds=cell[0], values=cell[1]) for cell in cells.values())
    return Column("knn", "top1", "p", "", found)


def against(*differences: tuple[float, ...], **options):
    """The claim that one row is ahead of others by these differences, three seeds each."""
    ours = ((0, 1, 2), (90.0, 90.0, 90.0))
    others = {f"w{n}": ((0, 1, 2), tuple(90.0 - d for d in given)) for n, given in enumerate(differences)}
    rows = [row("ours"), *map(row, others)]
    figures = column(ours=ours, **others)
    claim = {"claim": "x", "better": ["ours"] * len(others), "worse": list(others), "judge": "every"} | options
    (judged,) = judge([claim], rows, [figures])
    return judged, lambda: list(csv.DictReader(StringIO(claims_csv([judged], rows, [figures]))))


FAR_AHEAD, BEHIND, FURTHER_BEHIND = (13.0, 12.9, 13.1), (-7.0, -6.0, -8.0), (-7.5, -7.4, -7.6)


def test_a_row_that_two_others_beat_is_not_best_however_far_it_is_ahead_of_a_third():
    claim, lines = against(BEHIND, FURTHER_BEHIND, FAR_AHEAD)
    assert claim.outcomes[FIGURE].verdict == "does not hold"
    assert [line["verdict"] for line in lines()] == ["does not hold", "does not hold", "holds", "does not hold"]


def test_of_every_pair_the_weakest_is_marked_and_no_mean_is_printed():
    claim, lines = against(BEHIND, FURTHER_BEHIND, FAR_AHEAD)
    assert [line.entries[0].remark for line in lines_of(claim)] == ["", "weakest", "", ""]
    (together,) = lines_of(claim)[-1].entries
    assert (together.difference, together.p, together.verdict) == ("", "", "does not hold")
    assert (lines()[-1]["scope"], lines()[-1]["worse"], lines()[-1]["mean"]) == ("claim", "W1", "-7.5")
    found = claims_dict([claim])["x"][FIGURE]
    assert (found["judge"], found["weakest"], found["mean"]) == ("every", "OURS − W1", pytest.approx(-7.5))


def test_pairs_that_are_noise_one_by_one_do_not_hold_together_though_their_mean_would():
    noisy = (3.0, -1.0, 2.0), (-0.5, 3.5, 0.5)
    assert against(*noisy)[0].outcomes[FIGURE].verdict == "within noise"
    assert against(*noisy, judge="mean")[0].outcomes[FIGURE].verdict == "holds"


def test_the_mean_of_the_pairs_is_taken_for_each_seed_that_all_share():
    rows = [row("a", 79.0), row("b", 78.5), row("c"), row("d", 70.0)]
    figures = column(
        a=((0, 1, 2), (90.0, 91.0, 92.0)),
        b=((0, 1, 2), (88.0, 90.0, 90.5)),
        c=((0, 1, 2, 3), (80.0, 80.0, 80.0, 99.0)),
        d=((2, 1, 0, 3), (78.0, 79.0, 77.0, 0.0)),
    )
    (claim,) = judge([{"claim": "x", "better": ["a", "c"], "worse": ["b", "d"], "judge": "mean"}], rows, [figures])
    assert [pair.judged[FIGURE].differences for pair in claim.pairs] == [(2.0, 1.0, 1.5), (3.0, 1.0, 2.0, 99.0)]
    assert [pair.paper for pair in claim.pairs] == [0.5, None]
    assert claim.outcomes[FIGURE].evidence.differences == (2.5, 1.0, 1.75)
    lines = list(csv.DictReader(StringIO(claims_csv([claim], rows, [figures]))))
    assert [(line["scope"], line["better"], line["n"]) for line in lines] == [
        ("pair", "A", "3"),
        ("pair", "C", "4"),
        ("claim", "", "3"),
    ]
    assert [line.label for line in lines_of(claim)] == ["A − B", "C − D", "mean of the pairs"]


def test_no_worse_leaves_a_margin_in_every_pair_and_prints_it_with_the_bound():
    claim, _ = against((-0.5, -0.4, -0.6), (0.2, 0.3, 0.1), judge="no_worse", margin=1.0)
    assert claim.outcomes[FIGURE].verdict == "holds"
    assert claim.title == "x (margin 1 point)"
    assert [line.entries[0].remark for line in lines_of(claim)][:2] == ["at least −0.67, weakest", "at least +0.03"]
    assert against(BEHIND, (0.2, 0.3, 0.1), judge="no_worse", margin=1.0)[0].outcomes[FIGURE].verdict == "does not hold"


def test_a_claim_of_one_pair_has_one_line():
    claim, _ = against(FAR_AHEAD)
    assert [(line.label, line.entries[0].verdict) for line in lines_of(claim)] == [("OURS − W0", "holds")]


@pytest.mark.parametrize("judge_by", ["every", "mean"])
def test_a_row_that_nobody_measured_leaves_its_claim_unjudged(judge_by):
    rows = [row("a"), row("b")]
    claim = {"claim": "x", "better": ["a"], "worse": ["b"], "judge": judge_by}
    (judged,) = judge([claim], rows, [column(a=((0,), (1.0,)), b=None)])
    assert claims_dict([judged]) == {"x": {FIGURE: {"judge": judge_by, "n": 0, "verdict": "not measured"}}}


def test_the_page_prints_the_papers_figures_beside_ours_and_the_verdicts(experiment):
    experiment.rows[0]["paper"], experiment.rows[3]["paper"] = (79.4, 93.6), (78.9, None)
    claim = {"claim": "AttnDistill <beats> PA", "better": ["attndistill"], "worse": ["projector_alignment"]}
    table = build_report(
        experiment.results,
        experiment.outputs,
        experiment.destination,
        title="T",
        rows=experiment.rows,
        description={},
        claims=[claim | {"judge": "every"}],
    )
    page = (experiment.destination / "index.html").read_text()
    ours = {name: table["models"][name]["logistic"]["top1"]["mean"] for name in ("teacher", "attndistill")}
    gap = f"{ours['attndistill'] - ours['teacher']:+.1f}".replace("-", "−")
    assert f"<td>78.9</td><td></td><td>−0.5</td><td>{gap}</td>" in page
    assert "<td>79.4</td><td>93.6</td><td></td><td></td>" in page
    assert "AttnDistill &lt;beats&gt; PA" in page
    verdict = table["claims"]["AttnDistill <beats> PA"]["k-NN top-1"]["verdict"]
    assert f'">{verdict}</span>' in page
    (line, *_) = csv.DictReader((experiment.destination / "claims.csv").open())
    assert (line["claim"], line["verdict"]) == ("AttnDistill <beats> PA", verdict)
    tex = (experiment.destination / "table.tex").read_text()
    assert f"& $-$0.5 & {gap.replace('−', '$-$')} & 5 \\\\" in tex
    lines = {line["model"]: line for line in csv.DictReader((experiment.destination / "table.csv").open())}
    assert float(lines["attndistill"]["paper_top1_gap"]) == pytest.approx(-0.5)
    assert float(lines["attndistill"]["logistic_top1_gap"]) == pytest.approx(ours["attndistill"] - ours["teacher"])
    assert lines["teacher"]["logistic_top1_gap"] == ""


def test_more_models_than_one_chart_can_show_get_charts_by_group_and_the_chosen_pictures(experiment):
    shared = {"group": "(e) lambda", "pictured": False}
    for place, entry in enumerate(experiment.rows[2:]):
        entry.update(group="(e) lambda", settings={"a.lambda": 0.5 * place}, pictured=place < 1)
    experiment.rows += [{"name": f"r{n}", "label": f"R{n}", **shared, "settings": {"a.lambda": n}} for n in range(5)]
    build_report(
        experiment.results,
        experiment.outputs,
        experiment.destination,
        title="T",
        rows=experiment.rows,
        description={},
    )
    charts = sorted(path.name for path in (experiment.destination / "figures/groups").iterdir())
    assert charts == ["_e_lambda-setting.png", "_e_lambda.png"]  # the other groups have one row
    assert "<h3>(e) lambda</h3>" in (experiment.destination / "index.html").read_text()
