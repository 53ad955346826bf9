"""What the paper claims is judged by a stated paired test over seeds, pair by pair and all pairs together."""

import csv
from io import StringIO

import pytest

from attndistill.report.build import build_report
from attndistill.report.claims import Judged, claims_csv, claims_dict, judge
from attndistill.report.results import Measurement, Row
from attndistill.report.table import Column

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


def row(name: str, top1: float | None = None) -> Row:
    return Row(name, name.upper(), "", None, None, None, None, None, paper=(top1, None))


def column(**cells: tuple[tuple[int, ...], tuple[float, ...]] | None) -> Column:
    found = tuple(cell and Measurement(protocol="p", seeds=cell[0], values=cell[1]) for cell in cells.values())
    return Column("knn", "top1", "p", "", found)


def test_several_pairs_are_judged_on_their_mean_for_each_seed_that_all_share():
    rows = [row("a", 79.0), row("b", 78.5), row("c"), row("d", 70.0)]
    figures = column(
        a=((0, 1, 2), (90.0, 91.0, 92.0)),
        b=((0, 1, 2), (88.0, 90.0, 90.5)),
        c=((0, 1, 2, 3), (80.0, 80.0, 80.0, 99.0)),
        d=((2, 1, 0, 3), (78.0, 79.0, 77.0, 0.0)),
    )
    (claim,) = judge([{"claim": "x", "better": ["a", "c"], "worse": ["b", "d"]}], rows, [figures])
    assert [pair.judged["k-NN top-1"].differences for pair in claim.pairs] == [(2.0, 1.0, 1.5), (3.0, 1.0, 2.0, 99.0)]
    assert [pair.paper for pair in claim.pairs] == [0.5, None]
    assert claim.judged["k-NN top-1"].differences == (2.5, 1.0, 1.75)
    assert claims_dict([claim])["x"]["k-NN top-1"]["n"] == 3
    lines = list(csv.DictReader(StringIO(claims_csv([claim]))))
    assert [(line["better"], line["n"], line["verdict"]) for line in lines] == [
        ("A", "3", "holds"),
        ("C", "4", "within noise"),
        ("all", "3", "within noise"),
    ]


def test_a_row_that_nobody_measured_leaves_its_claim_unjudged():
    rows = [row("a"), row("b")]
    (claim,) = judge([{"claim": "x", "better": ["a"], "worse": ["b"]}], rows, [column(a=((0,), (1.0,)), b=None)])
    assert claims_dict([claim]) == {"x": {"k-NN top-1": {"n": 0, "verdict": "not measured"}}}


def test_the_page_prints_the_papers_figures_beside_ours_and_the_verdicts(experiment):
    experiment.rows[0]["paper"], experiment.rows[3]["paper"] = (79.4, 93.6), (78.9, None)
    claims = [{"claim": "AttnDistill <beats> PA", "better": ["attndistill"], "worse": ["projector_alignment"]}]
    table = build_report(
        experiment.results,
        experiment.outputs,
        experiment.destination,
        title="T",
        rows=experiment.rows,
        description={},
        claims=claims,
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
    assert r"78.9 &  & 5 \\" in tex


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
